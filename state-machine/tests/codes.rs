//! The page of codes says what the table says. `UPDATE=1 cargo test -p state-machine --test codes` writes it.
#![allow(clippy::disallowed_methods, reason = "a test reads and writes its own page")]

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/runbooks/codes.md");

#[test]
fn the_page_is_the_table() {
    let page = state_machine::codes::page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    assert_eq!(std::fs::read_to_string(PAGE).unwrap(), page, "UPDATE=1 writes the page anew");
}
