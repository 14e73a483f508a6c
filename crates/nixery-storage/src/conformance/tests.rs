use super::*;
use crate::MemoryStorage;

#[tokio::test]
async fn what_is_excepted_is_said_and_not_run() {
    let storage = MemoryStorage::new();
    let report = Run::new(&storage)
        .except("one_creator_wins", "a reason")
        .run()
        .await;
    assert_eq!(
        report.not_run,
        [("one_creator_wins", "a reason".to_owned())]
    );
    assert_eq!(report.kept.len() + 1, CONTRACTS.len());
    assert!(!report.kept.contains(&"one_creator_wins"));
}

#[test]
#[should_panic(expected = "there is no contract named one_creator_win")]
fn an_exception_names_a_contract_that_exists() {
    let storage = MemoryStorage::new();
    let _ = Run::new(&storage).except("one_creator_win", "a misspelling");
}
