//! Every layer strategy on real images: each path is in exactly one layer, plans are repeatable,
//! and the images run.

use nixery_e2e::build::{blob_in, build, closure, paths_in_tar};
use nixery_e2e::clients::{Podman, skopeo_pull};
use nixery_e2e::command::run;
use nixery_e2e::{Registry, RegistryOptions, demo_set, layering, program, test_set};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// From the least to the most that Docker takes, 94 being the default.
const BUDGETS: [usize; 6] = [1, 2, 5, 20, 94, 125];

/// The last has more paths than the largest budget has layers: 150 of them are `wide`'s.
const IMAGES: [&str; 3] = [
    "hello",
    "shell/git/htop",
    "shell/git/htop/jq/nginx/perl/python3/tmux/vim/wide",
];

fn nixery() -> Command {
    Command::new(program("nixery"))
}

/// Every path of the closure is in one layer and no other, in the tars as in the record.
fn assert_partitions(strategy: &str) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (set, storage) = (test_set(), folder.path().join("store"));
    let flags = layering::flags(strategy, folder.path());
    let mut tars: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for image in IMAGES {
        for budget in BUDGETS {
            let what = format!("{image}, {strategy}, at most {budget} layers");
            let budget_flag = ["--layer-budget", &budget.to_string()].map(str::to_owned);
            let flags: Vec<&str> = flags
                .iter()
                .chain(&budget_flag)
                .map(String::as_str)
                .collect();
            let built = build(nixery(), image, &set, &storage, &flags);

            let mut layers = built.layers();
            // The root layer is one more than the single layer that all paths can share.
            assert!(layers.len() <= budget.max(2), "{what}: {}", layers.len());
            let root = layers.pop().expect("a root layer");
            assert_eq!(root.paths, [""; 0], "{what}");
            let mut left = closure(&set, &built.packages());
            for layer in layers {
                assert!(!layer.paths.is_empty(), "{what}: an empty layer");
                let tar = tars.entry(layer.digest.clone());
                let in_tar = tar.or_insert_with(|| paths_in_tar(&blob_in(&storage, &layer.digest)));
                assert_eq!(*in_tar, layer.paths.into_iter().collect(), "{what}");
                for path in in_tar.iter() {
                    assert!(
                        left.remove(path),
                        "{what}: {path} is in two layers, or not needed"
                    );
                }
            }
            assert_eq!(left, BTreeSet::new(), "{what}: in no layer");
        }
    }
}

#[test]
#[ignore = "needs Nix: run make test"]
fn by_size_every_path_is_in_one_layer() {
    assert_partitions("size");
}

#[test]
#[ignore = "needs Nix: run make test"]
fn by_dominators_every_path_is_in_one_layer() {
    assert_partitions("dominator");
}

#[test]
#[ignore = "needs Nix: run make test"]
fn by_a_plan_every_path_is_in_one_layer() {
    assert_partitions("plan");
}

#[test]
#[ignore = "needs Nix: run make test"]
fn neither_the_packages_order_nor_the_threads_show() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    for strategy in layering::STRATEGIES {
        let strategy = layering::flags(strategy, folder.path());
        for budget in ["5", "20"] {
            let digests = [("shell/git/htop/jq", "1"), ("shell/jq/htop/htop/git", "3")].map(
                |(image, threads)| {
                    let storage = tempfile::tempdir().expect("a scratch folder");
                    let more = ["--layer-budget", budget, "--pack-threads", threads];
                    let flags: Vec<&str> =
                        strategy.iter().map(String::as_str).chain(more).collect();
                    let built = build(nixery(), image, &demo_set(), storage.path(), &flags);
                    assert!(!built.is_from_cache());
                    built.digests()
                },
            );
            assert_eq!(digests[0], digests[1], "{strategy:?}, {budget}");
        }
    }
}

#[test]
#[ignore = "needs Nix: run make test"]
fn a_plan_made_twice_is_the_same_file() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let plans = [
        "git,htop,jq,hello,python3",
        "python3,jq,hello,htop,git,htop",
    ]
    .map(|attributes| {
        let plan = folder.path().join(attributes);
        layering::make_plan(&demo_set(), attributes, &plan);
        std::fs::read(plan).expect("a plan")
    });
    assert_eq!(plans[0], plans[1]);
    let other = folder.path().join("other");
    layering::make_plan(&demo_set(), "git,htop,jq,hello", &other);
    assert_ne!(plans[0], std::fs::read(other).expect("a plan"));
}

#[test]
#[ignore = "needs Nix, skopeo, umoci, podman and runc: run make test"]
fn a_registry_with_a_plan_serves_images_that_run() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let plan = layering::plan(folder.path());
    let plan = plan.to_str().expect("UTF-8");
    let registry = Registry::start(RegistryOptions::demo().env("NIXERY_LAYER_PLAN", plan));
    let image = "shell/git/htop";
    let pulled = skopeo_pull(&registry.reference(image), folder.path());
    assert!(pulled.unpack().join("bin/git").is_symlink());

    let podman = Podman::new();
    podman.pull(&registry.reference(image)).success();
    let git = ["bash", "-c", "git --version && htop --version"];
    let said = podman.run(&registry.reference(image), "0", &git).success();
    assert!(
        said.contains("git version") && said.contains("htop 3"),
        "{said}"
    );

    // The command makes the same image by the same variable, and not the one that it makes without.
    let layers = |plan: Option<&str>| {
        let storage = tempfile::tempdir().expect("a scratch folder");
        let mut command = nixery();
        command.env_remove("NIXERY_LAYER_PLAN");
        command.envs(plan.map(|plan| ("NIXERY_LAYER_PLAN", plan)));
        let built = build(command, image, &demo_set(), storage.path(), &[]);
        built
            .layers()
            .into_iter()
            .map(|layer| layer.digest)
            .collect::<Vec<_>>()
    };
    assert_eq!(layers(Some(plan)), pulled.layer_digests());
    assert_ne!(layers(None), pulled.layer_digests());
    registry.verify();
    run(nixery().args(["lab", "plan", "show", plan])).success();
}
