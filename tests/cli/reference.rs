//! The reference pages have the tables of this program.

use std::path::Path;
use std::process::Command;

use pixii::config::Config;
use pixii_testkit::reported;

const PAGES: [&str; 3] = ["configuration.md", "limits.md", "exit-codes.md"];

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn printed(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
    let (code, out, err) = reported(&command.arg("reference").args(arguments).output().unwrap());
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
    out
}

#[test]
fn every_table_stands_in_a_page_as_the_program_prints_it() {
    let pages: String = PAGES.into_iter().map(page).collect();
    let names = printed(&[]);
    assert!(names.lines().count() >= 14, "{names}");
    for name in names.lines() {
        let block = format!("<!-- table {name} -->\n{}<!-- end of table -->\n", printed(&[name]));
        assert!(pages.contains(&block), "run docs/generate: no page has\n{block}");
    }
    let tables = pages.matches("<!-- table ").count();
    assert_eq!(tables, names.lines().count(), "a page has a table that the program does not know");
}

#[test]
fn every_key_of_a_configuration_is_in_the_reference() {
    let error = Config::parse("no_such_key = 1", Path::new("n1.toml")).unwrap_err().to_string();
    let known = error.split("expected one of ").nth(1).unwrap();
    let (page, mut keys) = (page("configuration.md"), 0);
    for key in known.split('`').filter(|key| key.starts_with(|c: char| c.is_alphabetic())) {
        // These are names of before, which are still taken.
        if ["trusted_network", "http_beyond_loopback"].contains(&key) {
            continue;
        }
        keys += 1;
        assert!(
            page.contains(&format!("| `{key}`")) || page.contains(&format!(", `{key}` |")),
            "{key}"
        );
    }
    assert!(keys > 25, "{error}");
}
