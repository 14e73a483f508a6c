//! What histories of pulls are made of, and their JSON.

use serde::{Deserialize, Serialize};

/// A history of pulls, not checked: [`Workload::from_parts`](super::Workload::from_parts) does that.
///
/// As JSON it is an object with these fields; others are ignored:
///
/// | field | content |
/// |---|---|
/// | `paths` | a list of `[store path, NAR size, compressed size, [references]]`, sizes in bytes, references as places in this list, from 0 |
/// | `weeks` | for each week a list of images, each a list of root paths (places in `paths`); an image has the same place every week |
/// | `events` | a list of `[week, client, [images pulled, in order], [images kept afterwards]]`, in the order of time; weeks and images as places, from 0, clients as any numbers |
/// | `names` | may be left out: for each place of an image a number, the same for images of one name |
///
/// Self references and cycles are accepted. An image that is not kept is forgotten, and a kept one that is
/// not pulled again stays as it was. Where `null` stands for the images kept, all are. Of each name a
/// client has one image, the one it pulled last; without `names` each place is a name of its own. An image
/// that nobody pulls in a week may be an empty list there, and be left out at the end of the week's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadParts {
    /// Store path, NAR size, compressed size, references.
    pub paths: Vec<(String, u64, u64, Vec<u64>)>,
    /// Roots, by week and image.
    pub weeks: Vec<Vec<Vec<u64>>>,
    /// The name of each image's place; empty where each is its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<u64>,
    /// In the order of time.
    pub events: Vec<WorkloadEvent>,
}

/// Week, client, images pulled, images kept.
pub type WorkloadEvent = (u64, u64, Vec<u64>, Option<Vec<u64>>);

impl WorkloadParts {
    /// As JSON, in one line; equal parts give equal bytes.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and integers serialise to JSON")
    }
}
