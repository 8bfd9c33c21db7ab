//! Values on the command line and on the terminal.

use std::process::{Command, Stdio};

use pixii_testkit::fake::Fake;

use super::command::{pixii, run};

#[test]
fn a_number_below_zero_is_a_key_and_a_value_and_other_dashes_are_explained() {
    let fake = Fake::start(1, 1);
    for value in ["-5", "-0.25", "-1e9"] {
        let written = run(&fake, &["put", value, value]);
        assert_eq!(written, (0, String::new(), String::new()), "{value}");
        assert_eq!(run(&fake, &["get", value]).1, value);
    }
    let (code, _, err) = run(&fake, &["put", "k", "-x"]);
    assert!(code == 2 && err.contains("to pass '-x' as a value, use '-- -x'"), "{err}");
    assert_eq!(run(&fake, &["put", "k", "--", "-x"]).0, 0);
    assert_eq!(run(&fake, &["get", "k"]).1, "-x");
}

/// What a terminal shows of `pixii get KEY`.
fn on_a_terminal(fake: &Fake, key: &str) -> Vec<u8> {
    // script(1) gives the command a terminal, and copies what it shows.
    let get = format!("{} get {key}", env!("CARGO_BIN_EXE_pixii"));
    let mut command = Command::new("script");
    command.args(["-qec", &get, "/dev/null"]).env("PIXII_CONNECT", fake.address(0));
    let shown = command.stdin(Stdio::null()).output().unwrap();
    assert!(shown.status.success(), "{shown:?}");
    // A terminal shows a newline as a carriage return and a newline.
    shown.stdout.into_iter().filter(|byte| *byte != b'\r').collect()
}

#[test]
fn a_terminal_gets_a_newline_behind_the_value_and_a_pipe_the_exact_bytes() {
    let fake = Fake::start(1, 1);
    run(&fake, &["put", "bare", "value"]);
    run(&fake, &["put", "line", "value\n"]);
    run(&fake, &["put", "empty", ""]);
    assert_eq!(on_a_terminal(&fake, "bare"), b"value\n");
    assert_eq!(on_a_terminal(&fake, "line"), b"value\n", "it has one already");
    assert_eq!(on_a_terminal(&fake, "empty"), b"\n");
    for (key, value) in [("bare", &b"value"[..]), ("line", b"value\n"), ("empty", b"")] {
        assert_eq!(pixii(&fake, &["get", key]).output().unwrap().stdout, value);
    }
}
