//! A synthetic package set.

use nixery_core::{ClusterPlan, PlannedPackage, ReferenceGraph};

/// A reference graph and popularity data for it, as JSON.
pub struct PackageSet {
    /// As `exportReferencesGraph` writes it, with closure sizes of the right magnitude.
    pub graph: String,
    /// The same paths as `nix path-info --json` writes them, without closure sizes.
    pub path_info: String,
    /// The roots' paths.
    pub roots: Vec<String>,
    /// References per name.
    pub popularity: String,
}

/// Marsaglia's xorshift: enough for shapes, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

const BASE32: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// A [`dense_package_set`] of nine references to a path on average: more than most images have.
pub fn package_set(paths: usize) -> PackageSet {
    dense_package_set(paths, 10)
}

/// A cluster plan for the names of a graph: three to a cluster, as in the plan of a package set
/// (`nixpkgs` has 3.3).
pub fn cluster_plan(graph: &ReferenceGraph) -> ClusterPlan {
    let nodes = graph.nodes().iter();
    let mut names: Vec<&str> = nodes.map(|node| node.path.package_name()).collect();
    names.sort_unstable();
    names.dedup();
    let clusters = names.chunks(3).zip((1..=20).cycle());
    let packages = clusters.flat_map(|(cluster, samples)| {
        cluster.iter().map(move |name| PlannedPackage {
            name: (*name).to_owned(),
            cluster: cluster[0].to_owned(),
            samples,
        })
    });
    ClusterPlan::new("benchmark".to_owned(), 20, packages).expect("a plan")
}

/// Makes a graph of so many paths, with up to `density` times two references each, half of them to
/// a few paths that much of the set needs (quadratically fewer for later ones), half to near
/// neighbours, as package sets have them. Density 3 comes near to captured graphs of `nixpkgs`,
/// which have 2.4 references to a path.
pub fn dense_package_set(paths: usize, density: u64) -> PackageSet {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let names: Vec<String> = (0..paths)
        .map(|i| {
            let hash: String = (0..32)
                .map(|_| BASE32[random.below(32) as usize] as char)
                .collect();
            format!("/nix/store/{hash}-package{i}-1.{}.{}", i % 40, i % 7)
        })
        .collect();
    let mut counts = vec![0u32; paths];
    let (mut entries, mut infos) = (Vec::new(), Vec::new());
    for i in 0..paths as u64 {
        let mut references: Vec<u64> = Vec::new();
        for _ in 0..random.below(density) {
            let share = random.below(1000) * random.below(1000);
            references.push(share * i.min(2000) / 1_000_000);
            references.push(i.saturating_sub(1 + random.below(60)));
        }
        references.retain(|&reference| reference < i);
        references.sort_unstable();
        references.dedup();
        for &reference in &references {
            counts[reference as usize] += 1;
        }
        let with_itself = references.into_iter().chain([i]);
        let mut listed: Vec<String> = with_itself
            .map(|reference| format!("\"{}\"", names[reference as usize]))
            .collect();
        listed.sort();
        let list = listed.join(",");
        let magnitude = 10 + random.below(14);
        let size = 500 + random.below(1 << magnitude);
        let closure = size * (1 + i.min(60));
        let facts = format!(
            r#""narHash":"sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s","narSize":{size},"path":"{}","references":[{list}]"#,
            names[i as usize]
        );
        let name = &names[i as usize];
        entries.push((name, format!(r#"{{"closureSize":{closure},{facts}}}"#)));
        infos.push((name, format!("{{{facts},\"registrationTime\":1700000000}}")));
    }
    // Nix writes paths in order, and their references, too.
    let listed = |mut entries: Vec<(&String, String)>| {
        entries.sort();
        let entries: Vec<String> = entries.into_iter().map(|(_, entry)| entry).collect();
        entries.join(",")
    };
    // What nothing refers to is what someone asked for.
    let mut roots: Vec<String> = names
        .iter()
        .zip(&counts)
        .filter(|&(_, &count)| count == 0)
        .map(|(name, _)| name.clone())
        .collect();
    roots.sort();
    let counted: Vec<String> = names
        .iter()
        .zip(&counts)
        .filter(|&(_, &count)| count > 1)
        .map(|(name, count)| format!("\"{}\":{count}", &name[44..]))
        .collect();
    let quoted: Vec<String> = roots.iter().map(|root| format!("\"{root}\"")).collect();
    PackageSet {
        graph: format!(
            r#"{{"exportReferencesGraph":{{"graph":[{}]}},"graph":[{}]}}"#,
            quoted.join(","),
            listed(entries)
        ),
        path_info: format!("[{}]", listed(infos)),
        roots,
        popularity: format!("{{{}}}", counted.join(",")),
    }
}

/// What `nix path-info --json` prints of so many paths in families of forty, such as the packages
/// of a language: each refers to some of its family, and to a few of the first five hundred, which
/// much of the set needs. Closures have a hundred paths or so, where those of [`package_set`] have
/// much of the set.
pub fn package_families(paths: usize) -> String {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let hash = |i: u64| {
        let digits =
            (0..32).map(|place| BASE32[((i >> (5 * place.min(12))) % 32) as usize] as char);
        digits.collect::<String>()
    };
    let path = |i: u64| format!("/nix/store/{}-package{i}-1.{}", hash(i), i % 7);
    let mut infos = Vec::new();
    for i in 0..paths as u64 {
        let mut references: Vec<u64> = Vec::new();
        for _ in 0..random.below(5) {
            references.push(random.below(1000) * random.below(1000) * i.min(500) / 1_000_000);
            references.push(i - random.below(1 + i % 40));
        }
        references.retain(|&reference| reference < i);
        references.sort_unstable();
        references.dedup();
        let references: Vec<String> = references
            .into_iter()
            .map(|reference| format!("\"{}\"", path(reference)))
            .collect();
        let magnitude = 10 + random.below(14);
        infos.push(format!(
            r#"{{"path":"{}","narSize":{},"references":[{}]}}"#,
            path(i),
            500 + random.below(1 << magnitude),
            references.join(",")
        ));
    }
    format!("[{}]", infos.join(","))
}
