//! Images of one name, and clients that keep all images.

use super::*;

/// A name with two images (places 0 and 2), and another name, as a server records them: clients
/// delete nothing.
fn of_two_names() -> Value {
    let mut json = example();
    json["weeks"] = json!([[[1], [2], [3]], [[], [2], [3]]]);
    json["names"] = json!([5, 6, 5]);
    json["events"] = json!([
        [0, 7, [0], null],
        [0, 7, [1], null],
        // In the first week as well, while another client still pulls the old image.
        [0, 7, [2], null],
        [0, 9, [0], null],
        [1, 7, [2, 1], null],
    ]);
    json
}

#[test]
fn a_newer_image_of_a_name_replaces_the_older() {
    let json = of_two_names();
    let counts = replay(&workload(&json), Grouping::OneLayerPerPath).unwrap();
    // libc and app-1, tool, app-2; the other client libc and app-1; then nothing.
    assert_eq!(counts.bytes_by_week, [40 + 20 + 10 + 25 + 60, 0]);
    assert_eq!((counts.images, counts.stored_layers), (3, 4));

    // A client that returns to the older image fetches it again, except the shared layers.
    let mut back = json.clone();
    back["events"][4] = json!([0, 7, [0], null]);
    let counts = replay(&workload(&back), Grouping::OneLayerPerPath).unwrap();
    assert_eq!(counts.bytes, 155 + 20);

    // Without names both are kept.
    back.as_object_mut().unwrap().remove("names");
    let counts = replay(&workload(&back), Grouping::OneLayerPerPath).unwrap();
    assert_eq!(counts.bytes, 155);
}

#[test]
fn kept_images_are_identified_by_name() {
    let mut json = of_two_names();
    // Either image of a name identifies the name.
    json["events"][2][3] = json!([0]);
    json["events"][4] = json!([0, 7, [2, 1], []]);
    let counts = replay(&workload(&json), Grouping::OneLayerPerPath).unwrap();
    assert_eq!(counts.bytes, 155 + 10, "the tool was deleted");
}

#[test]
fn parts_survive_their_json() {
    let json = of_two_names();
    let parts: WorkloadParts = serde_json::from_value(json).unwrap();
    assert_eq!(
        parts,
        serde_json::from_slice(&parts.to_json()).unwrap(),
        "nothing is lost"
    );
    let workload = Workload::from_parts(&parts).unwrap();
    assert_eq!((workload.clients(), workload.pulls()), (2, 6));
    let text = String::from_utf8(parts.to_json()).unwrap();
    assert!(text.contains(r#""events":[[0,7,[0],null],"#), "{text}");

    let none = WorkloadParts::default().to_json();
    assert_eq!(none, br#"{"paths":[],"weeks":[],"events":[]}"#);
    assert_eq!(Workload::from_json(&none).unwrap().pulls(), 0);
}

#[test]
fn every_image_needs_a_name() {
    let mut json = of_two_names();
    json["names"] = json!([5, 6]);
    let error = Workload::from_json(json.to_string().as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "event 2 names place of `names` 2, but there are only 2, counted from 0"
    );
}
