//! `pixii dev` and `pixii demo`: what they do on order, and what they leave behind.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::harness::{DEADLINE, Run, pixii, signal, until, wait_for_end};

/// A `pixii dev` whose orders are written to a pipe. Dropped, it is killed, and its daemons with it.
struct Dev {
    child: Child,
    orders: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Name, address and process of each daemon, as it prints them.
    daemons: Vec<(String, String, u32)>,
}

impl Dev {
    fn start(dir: &Path) -> Self {
        let arguments = ["dev", "--nodes", "3", "--port", "0", "--dir", dir.to_str().unwrap()];
        let mut command = pixii(&arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (send, lines) = channel();
        let also = send.clone();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        thread::spawn(move || BufReader::new(out).lines().try_for_each(|l| send.send(l.unwrap())));
        thread::spawn(move || BufReader::new(err).lines().try_for_each(|l| also.send(l.unwrap())));
        let orders = child.stdin.take();
        let mut dev = Dev { child, orders, lines, daemons: Vec::new() };
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

    /// The next line that begins like this.
    fn hears(&self, begin: &str) -> String {
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) if line.starts_with(begin) => return line,
                Ok(_) => {}
                Err(error) => panic!("no \"{begin}\": {error}"),
            }
        }
    }

    fn ends(&mut self) -> Option<i32> {
        until("dev ends", || self.child.try_wait().unwrap()).code()
    }

    fn run(&self, arguments: &[&str]) -> crate::harness::Told {
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
    let told = Run::start(pixii(&arguments), b"quit\n").end();
    let (code, err) = told.said();
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
    dev.hears("all daemons stopped cleanly; the data stays in ");
    assert_eq!(dev.ends(), Some(0));

    let mut dev = Dev::start(&home);
    assert_eq!(dev.run(&["get", "k"]).done(), "v");
    signal("INT", dev.child.id());
    dev.hears("all daemons stopped cleanly");
    assert_eq!(dev.ends(), Some(0));
}

#[test]
fn no_daemon_outlives_dev() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path());
    dev.run(&["put", "k", "v"]).done();
    signal("KILL", dev.child.id());
    dev.ends();
    dev.daemons.iter().for_each(|(_, _, pid)| wait_for_end(*pid));
    // They have noticed that they are alone, and have stopped as they should.
    for name in ["n1", "n2", "n3"] {
        let log = fs::read_to_string(dir.path().join(format!("{name}.log"))).unwrap();
        assert!(log.trim_end().ends_with(&format!("node {name} has stopped")), "{log}");
    }
}

/// The processes that a demo has named.
fn processes(story: &str) -> Vec<u32> {
    let number = |line: &str| line.rsplit_once(", process ").and_then(|(_, pid)| pid.parse().ok());
    story.lines().filter_map(number).collect()
}

#[test]
fn demo_tells_its_story_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let demo = |input: Option<&str>| {
        let mut command = pixii(&["demo"]);
        command.args(input).env("TMPDIR", dir.path());
        command
    };
    let told = Run::start(demo(None), b"").end();
    let story = told.done();
    assert!(story.contains(" checks held, 0 did not.\n") && !story.contains("FAILED"), "{story}");
    assert_eq!(processes(story).len(), 5);
    processes(story).into_iter().for_each(wait_for_end);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    // Nor when it is interrupted in the middle.
    let run = Run::start(demo(None), b"");
    until("a store is there", || {
        let demo = fs::read_dir(dir.path()).unwrap().next()?.unwrap().path();
        demo.join("n5").join("MARK").exists().then_some(())
    });
    signal("INT", run.pid());
    let told = run.end();
    let sentence = "pixii: interrupted; the daemons are stopped and their directory is removed\n";
    assert_eq!((told.code, &*told.err), (1, sentence), "{told:?}");
    processes(&told.out).into_iter().for_each(wait_for_end);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
