//! Prints the reference page of all settings: `scripts/gen-docs` writes it to the documentation.

fn main() {
    print!("{}", nixery_config::reference::page());
}
