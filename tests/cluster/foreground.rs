//! `pixii dev` and `pixii demo`: what they do on order, and what they leave behind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use pixii_testkit::cluster::{Finished, Run, pixii, signal, state, wait_for_end};
use pixii_testkit::{DEADLINE, until};

/// A `pixii dev` whose orders are written to a pipe. Dropped, it is killed, and its daemons with
/// it.
struct Dev {
    child: Child,
    orders: Option<ChildStdin>,
    /// What it says: in order on each of the two, in no order between them.
    out: Receiver<String>,
    err: Receiver<String>,
    /// Name, address and process of each daemon, as it prints them.
    daemons: Vec<(String, String, u32)>,
}

fn lines(from: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, lines) = channel();
    let from = BufReader::new(from.unwrap());
    thread::spawn(move || from.lines().try_for_each(|line| send.send(line.unwrap())));
    lines
}

impl Dev {
    fn start(dir: &Path) -> Self {
        let arguments = ["dev", "--nodes", "3", "--port", "0", "--dir", dir.to_str().unwrap()];
        let mut command = pixii(&arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, err) = (lines(child.stdout.take()), lines(child.stderr.take()));
        let orders = child.stdin.take();
        let mut dev = Dev { child, orders, out, err, daemons: Vec::new() };
        dev.hears("3 daemons are up after ");
        dev.hears("name  address");
        for name in ["n1", "n2", "n3"] {
            let line = dev.hears(name);
            let words: Vec<&str> = line.split_whitespace().collect();
            dev.daemons.push((name.into(), words[1].into(), words[2].parse().unwrap()));
        }
        dev
    }

    fn order(&mut self, order: &[u8]) {
        let orders = self.orders.as_mut().unwrap();
        orders.write_all(order).unwrap();
        orders.flush().unwrap();
    }

    /// The next line that begins like this; complaints begin with "pixii: ".
    fn hears(&self, begin: &str) -> String {
        let lines = if begin.starts_with("pixii: ") { &self.err } else { &self.out };
        loop {
            match lines.recv_timeout(DEADLINE) {
                Ok(line) if line.starts_with(begin) => return line,
                Ok(_) => {}
                Err(error) => panic!("no \"{begin}\": {error}"),
            }
        }
    }

    fn ends(&mut self) -> Option<i32> {
        until("dev ends", || self.child.try_wait().unwrap()).code()
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = pixii(arguments);
        command.env("PIXII_CONNECT", &self.daemons[0].1);
        Run::start(command, b"").end()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn dev_obeys_orders_and_has_its_data_back_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let mut dev = Dev::start(&home);
    let export = dev.hears("  export PIXII_CONNECT=");
    assert_eq!(export.trim(), format!("export PIXII_CONNECT={}", dev.daemons[0].1));
    dev.run(&["put", "k", "v", "-w", "3"]).done();

    // Another one in the same directory changes nothing there.
    let before = fs::read(home.join("n1.toml")).unwrap();
    let arguments = ["dev", "--nodes", "3", "--port", "0", "--dir", home.to_str().unwrap()];
    let reported = Run::start(pixii(&arguments), b"quit\n").end();
    let (code, err) = reported.stated();
    assert!(code == 1 && err.ends_with(" is in use by another `pixii dev`\n"), "{err}");
    assert_eq!(fs::read(home.join("n1.toml")).unwrap(), before);

    dev.order(b"dance\nkill n9\nkill n2\n");
    dev.hears("pixii: \"dance\" is no order; orders are start NAME, ");
    dev.hears("pixii: there is no \"n9\"; there are n1, n2, n3");
    dev.hears("n2 is killed; type `start n2` to start it again");
    assert_eq!(dev.run(&["get", "k", "-r", "3"]).code, 4);
    dev.order(b"kill n2\n\xff\xfe\nstart n2\n");
    dev.hears("pixii: n2 is not running");
    dev.hears("pixii: \"");
    dev.hears("n2 is up after ");
    assert_eq!(dev.run(&["get", "k", "-r", "3"]).done(), "v");
    dev.order(b"start n2\nstop n3\n");
    dev.hears("pixii: n2 is running already");
    dev.hears("n3 has stopped; type `start n3` to start it again");
    signal("KILL", dev.daemons[0].2);
    dev.hears("pixii: n1 ended: killed by signal 9; type `start n1` to start it again");
    dev.order(b"start n1\nquit\n");
    dev.hears("n1 is up after ");
    dev.hears("all daemons have stopped; the data stays in ");
    assert_eq!(dev.ends(), Some(0));

    let mut dev = Dev::start(&home);
    assert_eq!(dev.run(&["get", "k"]).done(), "v");
    signal("INT", dev.child.id());
    dev.hears("all daemons have stopped");
    assert_eq!(dev.ends(), Some(0));
}

#[test]
fn no_daemon_outlives_dev() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path());
    dev.run(&["put", "k", "v"]).done();
    // Not even one that is frozen and cannot notice anything.
    dev.order(b"freeze n2\n");
    dev.hears("n2 is frozen; type `resume n2` to let it go on");
    until("n2 is frozen", || (state(dev.daemons[1].2) == 'T').then_some(()));
    signal("KILL", dev.child.id());
    dev.ends();
    dev.daemons.iter().for_each(|(_, _, pid)| wait_for_end(*pid));
    // They have noticed that they are alone, and have stopped as they should.
    for name in ["n1", "n2", "n3"] {
        let log = fs::read_to_string(dir.path().join(format!("{name}.log"))).unwrap();
        assert!(log.trim_end().ends_with(&format!("node {name} has stopped")), "{log}");
    }
}

/// An order from another terminal to the `pixii dev` in this directory.
fn elsewhere(dir: &Path, verb: &str, name: &str) -> Finished {
    Run::start(pixii(&["dev", verb, name, "--dir", dir.to_str().unwrap()]), b"").end()
}

fn nobody(dir: &Path) -> String {
    format!("pixii: no `pixii dev` runs in {}; name its directory with --dir\n", dir.display())
}

#[test]
fn dev_obeys_orders_from_another_terminal() {
    let dir = tempfile::tempdir().unwrap();
    // The path of a socket has at most 107 bytes, that of a directory may have more.
    let home = dir.path().join("h".repeat(150));
    let order = |verb, name| elsewhere(&home, verb, name);
    assert_eq!(order("kill", "n1").stated(), (1, &*nobody(&home)));
    let mut dev = Dev::start(&home);
    dev.run(&["put", "k", "v", "-w", "3"]).done();
    assert_eq!(dev.run(&["hints"]).done(), "no hints are kept\n");

    // A frozen one is pending what is written, holds nobody up, and has it when it goes on.
    let frozen = dev.daemons[2].2;
    assert_eq!(order("freeze", "n3").done(), "n3 is frozen\n");
    dev.hears("n3 is frozen; type `resume n3` to let it go on");
    until("n3 is frozen", || (state(frozen) == 'T').then_some(()));
    dev.run(&["put", "other", "v"]).done();
    let reported = until("a hint is kept", || {
        let reported = dev.run(&["hints"]);
        reported.out.contains("total for").then_some(reported)
    });
    let total = reported.out.lines().last().unwrap();
    assert!(reported.code == 0 && total.starts_with("n3 "), "{reported:?}");
    let silent = format!("pixii: n3 ({}): no answer in ", dev.daemons[2].1);
    assert!(reported.err.starts_with(&silent) && reported.err.lines().count() == 1, "{reported:?}");
    assert_eq!(order("kill", "n2").done(), "n2 is killed\n");
    assert!(order("start", "n2").done().starts_with("n2 is up after "));
    assert_eq!(order("resume", "n3").done(), "n3 goes on\n");
    until("n3 has its writes back", || {
        let reported = dev.run(&["hints"]);
        ((reported.out.as_str(), reported.err.as_str())
            == (
                "no hints are \
            kept\n",
                "",
            ))
            .then_some(())
    });
    until("all three answer", || (dev.run(&["get", "other", "-r", "3"]).out == "v").then_some(()));

    let sentence = "pixii: there is no \"n9\"; there are n1, n2, n3\n";
    assert_eq!(order("freeze", "n9").stated(), (1, sentence));
    assert_eq!(order("kill", "n1\nkill n2").code, 2, "an order is one line");
    assert_eq!(order("stop", "n2").done(), "n2 has stopped\n");
    for verb in ["stop", "kill", "freeze", "resume"] {
        assert_eq!(order(verb, "n2").stated(), (1, "pixii: n2 is not running\n"), "{verb}");
    }
    assert_eq!(order("freeze", "n3").done(), "n3 is frozen\n");
    assert_eq!(order("kill", "n3").done(), "n3 is killed\n");
    wait_for_end(frozen);
    assert!(order("start", "n3").done().starts_with("n3 is up after "));
    assert_eq!(order("start", "n3").stated(), (1, "pixii: n3 is running already\n"));

    // One that dies frozen is notified of as any other, and one that is frozen at the end stops
    // cleanly.
    assert_eq!(order("freeze", "n1").done(), "n1 is frozen\n");
    signal("KILL", dev.daemons[0].2);
    dev.hears("pixii: n1 ended: killed by signal 9; type `start n1` to start it again");
    assert_eq!(order("freeze", "n3").done(), "n3 is frozen\n");
    dev.order(b"quit\n");
    dev.hears("all daemons have stopped; the data stays in ");
    assert_eq!(dev.ends(), Some(0));
    assert_eq!(order("start", "n1").stated(), (1, &*nobody(&home)));
}

#[test]
fn nothing_is_in_the_way_of_orders() {
    let dir = tempfile::tempdir().unwrap();
    let order = |verb, name| elsewhere(dir.path(), verb, name);
    let mut dev = Dev::start(dir.path());
    let connect = || UnixStream::connect(dir.path().join("dev.sock")).unwrap();
    let answer = |mut stream: UnixStream, sent: &[u8]| {
        stream.write_all(sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    };
    // One that says nothing, one that says too much, and one that was cut short.
    let silent = connect();
    let long = answer(connect(), &[b'x'; 2_000]);
    assert_eq!(long, "refused an order has at most 1024 bytes\n");
    assert_eq!(answer(connect(), b"kill n1"), "refused an order ends with a newline\n");
    assert!(answer(connect(), b"\xff\xfe\n").starts_with("refused \""));
    let late = "refused no whole order came in 1000 ms\n";
    assert_eq!(BufReader::new(silent).lines().next().unwrap().unwrap() + "\n", late);
    // Orders from here do not wait for a silent one.
    let silent = connect();
    dev.order(b"kill n2\n");
    dev.hears("n2 is killed; ");
    drop(silent);
    assert!(order("start", "n2").done().starts_with("n2 is up after "));

    // What a killed one leaves behind is nobody, and does not stop the next one.
    signal("KILL", dev.child.id());
    dev.ends();
    assert!(dir.path().join("dev.sock").exists());
    assert_eq!(order("kill", "n1").stated(), (1, &*nobody(dir.path())));
    let ended = |name: &&str| {
        let log = fs::read_to_string(dir.path().join(format!("{name}.log"))).unwrap();
        log.trim_end().ends_with(&format!("node {name} has stopped"))
    };
    until("all have stopped", || ["n1", "n2", "n3"].iter().all(ended).then_some(()));
    let mut dev = Dev::start(dir.path());
    assert_eq!(order("kill", "n1").done(), "n1 is killed\n");
    signal("TERM", dev.child.id());
    dev.hears("all daemons have stopped");
    assert_eq!(dev.ends(), Some(0));
    assert!(!dir.path().join("dev.sock").exists());
}

/// The processes that a demo has named.
fn processes(script: &str) -> Vec<u32> {
    let number = |line: &str| line.rsplit_once(", process ").and_then(|(_, pid)| pid.parse().ok());
    script.lines().filter_map(number).collect()
}

#[test]
fn demo_reports_its_script_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let demo = |input: Option<&str>| {
        let mut command = pixii(&["demo"]);
        command.args(input).env("TMPDIR", dir.path());
        command
    };
    let reported = Run::start(demo(None), b"").end();
    let script = reported.done();
    assert!(
        script.contains(" checks held, 0 did not.\n") && !script.contains("FAILED"),
        "{script}"
    );
    assert_eq!(processes(script).len(), 5);
    processes(script).into_iter().for_each(wait_for_end);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    // Nor when it is interrupted in the middle.
    let run = Run::start(demo(None), b"");
    until("a store is there", || {
        let demo = fs::read_dir(dir.path()).unwrap().next()?.unwrap().path();
        demo.join("n5").join("MARK").exists().then_some(())
    });
    signal("INT", run.pid());
    let reported = run.end();
    let sentence = "pixii: interrupted; the daemons are stopped and their directory is removed\n";
    assert_eq!((reported.code, &*reported.err), (1, sentence), "{reported:?}");
    processes(&reported.out).into_iter().for_each(wait_for_end);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
