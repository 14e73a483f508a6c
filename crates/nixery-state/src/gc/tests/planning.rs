//! Properties of the plan.

use std::time::{Duration, SystemTime};

use nixery_manifest::Digest;
use nixery_storage::{Capacity, Key, Space};
use proptest::prelude::*;

use crate::gc::inventory::{BlobId, Inventory, LayerEntry, NamedBlobs};
use crate::gc::plan::{DropReason, GcPlan, plan};
use crate::gc::{GcPolicy, age};
use crate::record::{BUILDS, MANIFESTS};

const GRACE: u64 = 20;

/// What the test needs to make an inventory; ages are in seconds.
#[derive(Debug, Clone)]
struct Store {
    /// Size, if the blob exists, and age.
    blobs: Vec<(Option<u64>, u64)>,
    /// Blobs, age since built, age since used.
    images: Vec<(Vec<usize>, u64, u64)>,
    /// Manifests without an image: which blobs one names.
    manifests: Vec<(usize, Vec<usize>)>,
    newer: u64,
}

fn store() -> impl Strategy<Value = Store> {
    let blobs = prop::collection::vec(
        (prop::option::weighted(0.97, 1..1000_u64), 0..100_u64),
        1..25,
    );
    blobs.prop_flat_map(|blobs| {
        let some = prop::collection::vec(0..blobs.len(), 1..6);
        let image = (some.clone(), 0..100_u64, 0..100_u64);
        let image = image.prop_map(|(blobs, built, used)| (blobs, built.max(used), used));
        let images = prop::collection::vec(image, 0..15);
        let manifests = prop::collection::vec((0..blobs.len(), some), 0..3);
        let newer = prop::sample::select(vec![0, 0, 0, 0, 0, 0, 0, 1]);
        (Just(blobs), images, manifests, newer).prop_map(|(blobs, images, manifests, newer)| {
            Store {
                blobs,
                images,
                manifests,
                newer,
            }
        })
    })
}

fn policies() -> impl Strategy<Value = GcPolicy> {
    let seconds = || prop::option::of((0..120_u64).prop_map(Duration::from_secs));
    (seconds(), seconds(), prop::option::of(0..8000_u64)).prop_map(
        |(max_unused, max_age, max_size)| GcPolicy {
            max_unused,
            max_age,
            max_size,
            max_share_percent: None,
            grace: Duration::from_secs(GRACE),
        },
    )
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn ago(seconds: u64) -> SystemTime {
    now() - Duration::from_secs(seconds)
}

fn digest(blob: usize) -> Digest {
    Digest::of(&blob.to_le_bytes())
}

impl Store {
    fn inventory(&self) -> Inventory {
        let mut inventory = Inventory::default();
        for (at, (size, age)) in self.blobs.iter().enumerate() {
            match size {
                Some(size) => inventory.add_blob(digest(at), *size, ago(*age)),
                None => drop(inventory.id(digest(at))),
            }
        }
        for (at, (blobs, built, used)) in self.images.iter().enumerate() {
            let named = NamedBlobs {
                name: format!("image {at}"),
                manifests: vec![digest(blobs[0])],
                others: blobs[1..].iter().map(|blob| digest(*blob)).collect(),
            };
            let key = Key::new(MANIFESTS, Digest::of(&at.to_be_bytes()));
            inventory.add_image(key, named, ago(*built), |_| Some(ago(*used)));
        }
        for (at, (size, age)) in self.blobs.iter().enumerate() {
            let blob = size.and_then(|_| inventory.find(&digest(at)));
            let (key, written) = (Key::new(BUILDS, digest(at)), ago(*age));
            inventory.builds.push(LayerEntry { key, written, blob });
        }
        for (manifest, named) in &self.manifests {
            let id = inventory.find(&digest(*manifest)).expect("there");
            if inventory.blob(id).refs == 0 && inventory.blob(id).size.is_some() {
                let named = named.iter().map(|blob| digest(*blob)).collect();
                inventory.add_manifest(id, named);
            }
        }
        inventory.settle_manifests();
        inventory.newer = self.newer;
        inventory
    }
}

/// The inventory after the plan was executed.
fn execute(before: &Inventory, plan: &GcPlan) -> Inventory {
    let mut after = Inventory::default();
    after.newer = before.newer;
    let dropped = |at: usize| plan.drops.iter().any(|drop| drop.image == at);
    for (id, blob) in before.blobs() {
        let touched = blob.refs > 0 && plan.refs_after[id as usize] == 0;
        let needed = if touched { now() } else { blob.needed };
        match blob.size {
            Some(size) if !plan.deletions.contains(&id) => {
                after.add_blob(blob.digest, size, needed)
            }
            _ => drop(after.id(blob.digest)),
        }
    }
    for (at, image) in before.images.iter().enumerate() {
        if dropped(at) {
            continue;
        }
        let digests = |ids: &[BlobId]| ids.iter().map(|id| before.blob(*id).digest).collect();
        let named = NamedBlobs {
            name: image.name.clone(),
            manifests: digests(&image.manifests),
            others: digests(&image.blobs),
        };
        after.add_image(image.key, named, image.built, |_| Some(image.used));
    }
    after.builds = before.builds.clone();
    after
        .builds
        .retain(|entry| !plan.useless.contains(&entry.key));
    for entry in &mut after.builds {
        let there = |id: &BlobId| !plan.deletions.contains(id);
        entry.blob = entry.blob.filter(there);
    }
    after
}

fn needed(inventory: &Inventory, kept: impl Fn(usize) -> bool) -> u64 {
    let mut ids: Vec<BlobId> = Vec::new();
    for (at, image) in inventory.images.iter().enumerate() {
        if kept(at) {
            ids.extend(&image.blobs);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    ids.iter().filter_map(|id| inventory.blob(*id).size).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_plan_keeps_its_promises(store in store(), policy in policies()) {
        let inventory = store.inventory();
        let plan = plan(&inventory, &policy, None, now());
        let young = |then| age(now(), then) <= policy.grace;
        let dropped = |at: usize| plan.drops.iter().find(|drop| drop.image == at);

        // No image loses a blob now, whether it stays or goes.
        for image in &inventory.images {
            prop_assert!(image.blobs.iter().all(|id| !plan.deletions.contains(id)));
        }
        // Nothing within the grace period goes.
        for drop in &plan.drops {
            prop_assert!(!young(inventory.images[drop.image].used));
        }
        for id in &plan.deletions {
            prop_assert!(!young(inventory.blob(*id).needed));
            // A manifest that somebody may still fetch keeps what it names.
            for ancestor in inventory.ancestors(*id) {
                prop_assert!(!young(inventory.blob(ancestor).needed));
            }
        }
        prop_assert!(inventory.newer == 0 || plan.deletions.is_empty());
        // Blobs that nothing needs go.
        for (id, blob) in inventory.blobs() {
            if blob.refs == 0 && blob.size.is_some() && !young(blob.needed) && inventory.newer == 0 {
                prop_assert!(plan.deletions.contains(&id));
            }
        }
        // Each limit holds for images that are not young.
        for (at, image) in inventory.images.iter().enumerate() {
            let over = |limit: Option<Duration>, then| limit.is_some_and(|most| age(now(), then) > most);
            let missing = image.blobs.iter().any(|id| inventory.blob(*id).size.is_none());
            let must = missing || over(policy.max_age, image.built) || over(policy.max_unused, image.used);
            match dropped(at) {
                Some(drop) => prop_assert_eq!(drop.reason == DropReason::TooMuch, !must),
                None => prop_assert!(!must || young(image.used)),
            }
        }
        // The numbers are correct.
        prop_assert_eq!(plan.needed_before, needed(&inventory, |_| true));
        prop_assert_eq!(plan.needed_after, needed(&inventory, |at| dropped(at).is_none()));
        let freed: u64 = plan.drops.iter().map(|drop| drop.frees).sum();
        prop_assert_eq!(plan.needed_before - plan.needed_after, freed);
    }

    #[test]
    fn the_size_limit_takes_the_least_recently_used_and_no_more(store in store(), policy in policies()) {
        let inventory = store.inventory();
        let plan = plan(&inventory, &policy, None, now());
        let for_size: Vec<_> = plan.drops.iter().filter(|drop| drop.reason == DropReason::TooMuch).collect();
        let Some(most) = policy.max_size else {
            prop_assert!(for_size.is_empty());
            return Ok(());
        };
        let kept = |at: usize| !plan.drops.iter().any(|drop| drop.image == at);
        let droppable = (0..inventory.images.len())
            .filter(|&at| kept(at) && age(now(), inventory.images[at].used) > policy.grace);
        let oldest_kept = droppable.map(|at| inventory.images[at].used).min();
        prop_assert!(plan.needed_after <= most || oldest_kept.is_none());
        if let Some(last) = for_size.last() {
            let used = inventory.images[last.image].used;
            prop_assert!(oldest_kept.is_none_or(|kept| kept >= used));
            let before_it = needed(&inventory, |at| kept(at) || at == last.image);
            prop_assert!(before_it > most, "one drop fewer would have been enough");
        }
    }

    #[test]
    fn an_executed_plan_leaves_nothing_to_do(store in store(), policy in policies()) {
        let before = store.inventory();
        let first = plan(&before, &policy, None, now());
        let after = execute(&before, &first);
        let second = plan(&after, &policy, None, now());
        prop_assert_eq!(second.drops, vec![]);
        prop_assert_eq!(second.deletions, Vec::<BlobId>::new());
        prop_assert_eq!(second.useless, vec![]);
        prop_assert_eq!(second.needed_after, first.needed_after);
    }

    #[test]
    fn the_order_of_the_listing_does_not_matter(store in store(), policy in policies()) {
        let inventory = store.inventory();
        let mut other = inventory.clone();
        other.images.reverse();
        let names = |inventory: &Inventory, plan: &GcPlan| -> Vec<_> {
            plan.drops.iter().map(|drop| (inventory.images[drop.image].key, drop.reason)).collect()
        };
        let (first, second) = (plan(&inventory, &policy, None, now()), plan(&other, &policy, None, now()));
        prop_assert_eq!(names(&inventory, &first), names(&other, &second));
    }
}

proptest! {
    /// Dropping for the share of a file system is dropping for the size and number of blobs that
    /// the share allows.
    #[test]
    fn a_share_of_the_file_system_is_kept(
        store in store(),
        percent in 0..=100_u8,
        available in 0..10_000_u64,
        files in prop::option::of(0..50_u64),
    ) {
        let inventory = store.inventory();
        let policy = GcPolicy {
            max_share_percent: Some(percent),
            grace: Duration::from_secs(GRACE),
            ..GcPolicy::default()
        };
        let capacity = |available| Capacity { total: 100_000, available };
        let space = Space { bytes: capacity(available), files: files.map(capacity) };
        let shared = plan(&inventory, &policy, Some(space), now());
        let unlimited = plan(&inventory, &policy, None, now());
        prop_assert!(unlimited.drops.iter().all(|drop| drop.reason != DropReason::TooMuch));

        let stored: Vec<u64> = inventory.blobs().filter_map(|(_, blob)| blob.size).collect();
        let within = |needed: u64, stored: u64, available: u64| {
            needed * 100 <= (stored + available) * u64::from(percent)
        };
        // What the images that are kept in this order need, from all of them to none.
        let fits = |refs: &[u32]| {
            let needed = inventory.blobs().zip(refs).filter(|(_, refs)| **refs > 0);
            let needed: Vec<u64> = needed.filter_map(|((_, blob), _)| blob.size).collect();
            let bytes = within(needed.iter().sum(), stored.iter().sum(), available);
            let files = files.is_none_or(|files| within(needed.len() as u64, stored.len() as u64, files));
            bytes && files
        };
        let dropped = shared.drops.iter().filter(|drop| drop.reason == DropReason::TooMuch);
        let dropped: Vec<_> = dropped.collect();
        if !fits(&shared.refs_after) {
            let candidates = inventory.images.iter();
            let candidates = candidates.filter(|image| age(now(), image.used) > policy.grace).count();
            prop_assert_eq!(shared.drops.len(), candidates, "nothing more can be dropped");
        }
        // The last one was necessary.
        if let Some(last) = dropped.last() {
            let mut refs = shared.refs_after.clone();
            for id in &inventory.images[last.image].blobs {
                refs[*id as usize] += 1;
            }
            prop_assert!(!fits(&refs));
        }
    }
}
