//! Real clients pull real images by tag and by digest, and programs run in them.

use nixery_e2e::clients::{Containerd, Podman, skopeo_digest, skopeo_pull};
use nixery_e2e::command::run;
use nixery_e2e::{Layout, Registry};
use std::process::Command;

/// Plain, nested, camelCase and digit-led names, and another architecture.
const IMAGES: [&str; 5] = [
    "shell/git/htop",
    "hello",
    "arm64/hello",
    DIGIT_LED,
    CAMEL_CASE,
];
const DIGIT_LED: &str = "7zz";
const CAMEL_CASE: &str = "haskellpackages.shellcheck";

/// The machine of the ELF file that `/bin/hello` leads to, read with `readelf`.
fn machine_of_hello(image: &Layout) -> String {
    let root = image.unpack();
    let link =
        std::fs::read_link(root.join("bin/hello")).expect("/bin/hello is a link into the store");
    let file = root.join(link.strip_prefix("/").expect("the link is absolute"));
    run(Command::new("readelf").arg("-h").arg(file)).success()
}

#[test]
#[ignore = "needs Nix and skopeo: run make test"]
fn skopeo_pulls_by_tag_and_by_digest() {
    let registry = Registry::on_demo_set();
    for image in IMAGES {
        let folder = tempfile::tempdir().unwrap();
        let by_tag = skopeo_pull(&registry.reference(image), folder.path());
        let digest = skopeo_digest(&registry.reference(image));
        let folder = tempfile::tempdir().unwrap();
        let by_digest = skopeo_pull(
            &format!("{}@{digest}", registry.reference(image)),
            folder.path(),
        );
        assert_eq!(by_tag.layer_digests(), by_digest.layer_digests(), "{image}");
        assert_eq!(by_tag.config(), by_digest.config(), "{image}");
    }
    registry.verify();
}

#[test]
#[ignore = "needs Nix and skopeo: run make test"]
fn an_arm64_image_says_so_and_holds_arm64_programs() {
    let registry = Registry::on_demo_set();
    let folder = tempfile::tempdir().unwrap();
    let image = skopeo_pull(&registry.reference("arm64/hello"), folder.path());
    assert_eq!(image.config()["architecture"], "arm64");
    assert!(machine_of_hello(&image).contains("AArch64"));

    let folder = tempfile::tempdir().unwrap();
    let image = skopeo_pull(&registry.reference("hello"), folder.path());
    assert_eq!(image.config()["architecture"], "amd64");
    assert!(machine_of_hello(&image).contains("X86-64"));
}

#[test]
#[ignore = "needs Nix and podman: run make test"]
fn podman_pulls_and_runs() {
    let registry = Registry::on_demo_set();
    let podman = Podman::new();
    let reference = registry.reference("shell/git/htop");
    podman.pull(&reference).success();
    for user in ["0", "1000", "nobody"] {
        let script = "git --version && htop --version && env true && touch /tmp/written && id -u";
        let printed = podman
            .run(&reference, user, &["bash", "-c", script])
            .success();
        assert!(printed.contains("git version"), "{printed}");
        let id = if user == "nobody" { "65534" } else { user };
        assert_eq!(printed.lines().last(), Some(id), "{printed}");
    }
    // A home that git can write, a resolver that knows /etc/hosts, and the shebangs of the world.
    let script = "cd && git init -q repository && printf '#!/usr/bin/env bash\\necho shebang' > x && chmod +x x && ./x && /bin/sh -c 'echo sh'";
    let printed = podman
        .run(&reference, "0", &["bash", "-c", script])
        .success();
    assert!(
        printed.contains("shebang") && printed.contains("sh\n"),
        "{printed}"
    );

    for image in ["hello", "arm64/hello", DIGIT_LED, CAMEL_CASE] {
        let reference = registry.reference(image);
        podman.pull(&reference).success();
        let digest = format!("{reference}@{}", skopeo_digest(&reference));
        podman.pull(&digest).success();
    }
    let printed = podman
        .run(&registry.reference("hello"), "1000", &["hello"])
        .success();
    assert!(printed.contains("Hello, world!"), "{printed}");
}

#[test]
#[ignore = "needs Nix and containerd: run make test"]
fn containerd_pulls_and_runs() {
    let registry = Registry::on_demo_set();
    let containerd = Containerd::start();
    for image in ["shell/git/htop", "hello", DIGIT_LED, CAMEL_CASE] {
        let reference = format!("{}:latest", registry.reference(image));
        containerd.pull(&reference).success();
        let digest = format!(
            "{}@{}",
            registry.reference(image),
            skopeo_digest(&reference)
        );
        containerd.pull(&digest).success();
    }
    containerd
        .pull_platform(
            "linux/arm64",
            &format!("{}:latest", registry.reference("arm64/hello")),
        )
        .success();

    let shell = format!("{}:latest", registry.reference("shell/git/htop"));
    let script = "git --version && id -u";
    let printed = containerd.run(&shell, &["bash", "-c", script]).success();
    assert!(
        printed.contains("git version") && printed.ends_with("0\n"),
        "{printed}"
    );
    // This ctr has no --user; coreutils' chroot drops to it inside the container.
    let printed = containerd
        .run(
            &shell,
            &["chroot", "--userspec=1000:1000", "/", "bash", "-c", script],
        )
        .success();
    assert!(
        printed.contains("git version") && printed.ends_with("1000\n"),
        "{printed}"
    );
}
