//! The reference page in the documentation is the table's.

use std::path::Path;

#[test]
fn the_page_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let page = std::fs::read_to_string(file).unwrap();
    let current = nixery_config::reference::page();
    assert!(
        page == current,
        "docs/configuration.md is old: run scripts/gen-docs"
    );
}
