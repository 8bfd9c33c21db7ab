//! Rules of an emulated network as people write them, one a line:
//!
//! ```text
//! FROM -> TO delay fixed 5ms | exponential 5ms | pareto 1ms 2.5 | mix 0.9 fixed 1ms + 0.1 ...
//!                  [offset 1ms] [fifo]
//! FROM -> TO drop 0.05
//! FROM -> TO cut | pass
//! FROM -> TO writes delay ...       of the messages of a kind: writes, acks, reads, answers,
//!                                   gossip, repair or others
//! NODE disk delay 50ms
//! ```
//!
//! FROM and TO are a member's name, `*` for every member, or `client` for every client; `<->`
//! stands for both directions. NODE is a member's name or `*`. A rule's `Display` is its text.

use std::fmt;
use std::ops::RangeInclusive;

use super::Place;
use super::delay::{Delay, Latency, MAX_DELAY};
use crate::members::Members;
use crate::message::Kind;
use crate::types::{MILLI, Micros, NodeId};

const MAX_RULES: usize = 100;
const MAX_PARTS: usize = 10;
const SHAPES: RangeInclusive<f64> = 0.1..=100.0;
const WEIGHTS: RangeInclusive<f64> = 0.000_001..=1_000_000.0;
const SECOND: Micros = Micros::from_millis(1_000);
/// A disk is slower by this at most: a node that stops waits for it.
const MAX_DISK_DELAY: Micros = Micros::from_secs(10);
/// A mistake is shown with at most this many characters of what was written.
const SHOWN: usize = 60;

/// One line of the rules: one aspect of some links.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    from: End,
    to: End,
    /// True if the rule holds from `to` to `from` as well.
    both: bool,
    /// The class of messages that it applies to; `None`: all.
    kind: Option<Kind>,
    /// The behaviour that it sets.
    pub(super) aspect: Aspect,
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    Any,
    Client,
    Member(String),
}

/// The behaviour that a rule sets. The last rule about an aspect of a link decides it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Aspect {
    /// How long messages take.
    Delay(Latency),
    /// The probability that a message is lost.
    Drop(f64),
    /// No message passes.
    Cut,
    /// Messages pass: an earlier `Cut` does not apply.
    Pass,
    /// The disk of the node at both ends takes so much longer for every write and every read.
    Disk(Micros),
}

/// The rules of a text, one a line or between semicolons; members are those of `members`. The error
/// is a sentence about the first mistake.
pub fn parse(text: &str, members: &Members) -> Result<Vec<Rule>, String> {
    let lines = text.split(['\n', ';']).map(str::trim).filter(|line| !line.is_empty());
    let count = lines.clone().count();
    if count > MAX_RULES {
        return Err(format!("{count} rules are too many: a network has at most {MAX_RULES}"));
    }
    let rule = |line: &str| {
        let fault = |what| format!("the rule \"{}\": {what}", shown(line));
        rule(&mut line.split_whitespace(), members).map_err(fault)
    };
    lines.map(rule).collect()
}

/// A distribution as a rule names it behind `delay`: "exponential 5ms", "mix 9 fixed 1ms + 1 pareto
/// 2ms 1.5". The error is a sentence about the first mistake.
pub fn parse_delay(text: &str) -> Result<Delay, String> {
    let mut tokens = text.split_whitespace();
    let fault = |what| format!("the distribution \"{}\": {what}", shown(text));
    match latency(&mut tokens).map_err(fault)? {
        Latency { delay, offset: Micros::ZERO, fifo: false } => Ok(delay),
        _ => Err(fault("a distribution alone has no offset and no order".into())),
    }
}

impl Rule {
    /// True if the rule is about messages of this kind from `from` to `to`.
    pub(super) fn holds(&self, from: Place, to: Place, kind: Kind) -> bool {
        let holds = |from, to| self.from.is(from) && self.to.is(to);
        self.kind.is_none_or(|of| of == kind) && (holds(from, to) || (self.both && holds(to, from)))
    }

    /// By how much it slows the disk of this node, if it says anything about that.
    pub(super) fn disk_delay(&self, node: NodeId) -> Option<Micros> {
        match self.aspect {
            Aspect::Disk(delay) if self.from.is(node.into()) => Some(delay),
            _ => None,
        }
    }
}

impl End {
    fn is(&self, place: Place) -> bool {
        match (self, place) {
            (End::Any, Place::Node(_)) | (End::Client, Place::Client(_)) => true,
            (End::Member(name), Place::Node(node)) => NodeId::of(name) == node,
            _ => false,
        }
    }
}

type Tokens<'a> = std::str::SplitWhitespace<'a>;

fn shown(text: &str) -> String {
    let start: String = text.chars().take(SHOWN).collect();
    format!("{}{}", start.escape_debug(), if start.len() < text.len() { "..." } else { "" })
}

fn rule(tokens: &mut Tokens, members: &Members) -> Result<Rule, String> {
    let from = end(tokens.next(), members)?;
    let both = match tokens.next() {
        Some("->") => false,
        Some("<->") => true,
        Some("disk") if from != End::Client => return disk(from, tokens),
        other => return Err(odd("behind FROM", other, "-> or <->")),
    };
    let to = end(tokens.next(), members)?;
    if from == to && from != End::Any {
        return Err(format!("no link leads from {from} to {to}"));
    }
    let mut next = tokens.next();
    let kind = Kind::ALL.into_iter().find(|kind| next == Some(kind.name()));
    if kind.is_some() {
        next = tokens.next();
    }
    let aspect = match next {
        Some("delay") => {
            return latency(tokens).map(|l| Rule {
                from,
                to,
                both,
                kind,
                aspect: Aspect::Delay(l),
            });
        }
        Some("drop") => Aspect::Drop(number("drop", tokens.next(), 0.0..=1.0)?),
        Some("cut") => Aspect::Cut,
        Some("pass") => Aspect::Pass,
        other => return Err(odd("behind TO", other, "delay, drop, cut or pass")),
    };
    match tokens.next() {
        None => Ok(Rule { from, to, both, kind, aspect }),
        more => Err(odd("at its end", more, "nothing")),
    }
}

/// Parses what follows `NODE disk`.
fn disk(node: End, tokens: &mut Tokens) -> Result<Rule, String> {
    match tokens.next() {
        Some("delay") => {}
        other => return Err(odd("behind disk", other, "delay")),
    }
    let delay = duration("disk delay", tokens.next())?;
    if delay > MAX_DISK_DELAY {
        return Err(format!(
            "disk delay {}: a disk takes at most {} more",
            Shown(delay),
            Shown(MAX_DISK_DELAY)
        ));
    }
    let (to, aspect) = (node.clone(), Aspect::Disk(delay));
    match tokens.next() {
        None => Ok(Rule { from: node, to, both: false, kind: None, aspect }),
        more => Err(odd("at its end", more, "nothing")),
    }
}

fn odd(place: &str, found: Option<&str>, expected: &str) -> String {
    match found {
        None => format!("{place} is nothing more, where {expected} is expected"),
        Some(token) => format!("{place} is \"{}\", where {expected} is expected", shown(token)),
    }
}

fn end(token: Option<&str>, members: &Members) -> Result<End, String> {
    match token {
        Some("*") => Ok(End::Any),
        Some("client") => Ok(End::Client),
        Some(name) if members.get(NodeId::of(name)).is_some() => Ok(End::Member(name.to_owned())),
        Some(name) => Err(format!(
            "no member is called \"{}\"; FROM and TO are a member's name, * or client",
            shown(name)
        )),
        None => Err("it lacks an end; a rule is FROM -> TO, then delay, drop, cut or pass".into()),
    }
}

fn latency(tokens: &mut Tokens) -> Result<Latency, String> {
    let (delay, mut next) = match tokens.next() {
        Some("mix") => mixture(tokens)?,
        kind => (simple(kind, tokens)?, tokens.next()),
    };
    let mut offset = Micros::ZERO;
    if next == Some("offset") {
        offset = duration("offset", tokens.next())?;
        next = tokens.next();
    }
    let fifo = next == Some("fifo");
    if fifo {
        next = tokens.next();
    }
    match next {
        None => Ok(Latency { delay, offset, fifo }),
        more => Err(odd("behind the delay", more, "offset, fifo or nothing")),
    }
}

fn simple(kind: Option<&str>, tokens: &mut Tokens) -> Result<Delay, String> {
    match kind {
        Some("fixed") => Ok(Delay::Fixed(duration("fixed", tokens.next())?)),
        Some("exponential") => Ok(Delay::Exponential(duration("exponential", tokens.next())?)),
        Some("pareto") => {
            let scale = duration("pareto", tokens.next())?;
            Ok(Delay::Pareto {
                scale,
                shape: number(
                    "the shape of \
                pareto",
                    tokens.next(),
                    SHAPES,
                )?,
            })
        }
        other => Err(odd("the kind of delay", other, "fixed, exponential, pareto or mix")),
    }
}

/// A mixture, and the word behind it.
fn mixture<'a>(tokens: &mut Tokens<'a>) -> Result<(Delay, Option<&'a str>), String> {
    let mut parts = Vec::new();
    loop {
        let weight = number("a weight of mix", tokens.next(), WEIGHTS)?;
        parts.push((weight, simple(tokens.next(), tokens)?));
        let next = tokens.next();
        if next != Some("+") {
            return Ok((Delay::Mixture(parts), next));
        }
        if parts.len() == MAX_PARTS {
            return Err(format!("a mix has at most {MAX_PARTS} parts"));
        }
    }
}

fn number(what: &str, token: Option<&str>, bounds: RangeInclusive<f64>) -> Result<f64, String> {
    let limit = || format!("{what} is a number from {} to {}", bounds.start(), bounds.end());
    let token = token.ok_or_else(|| format!("{what} is missing: {}", limit()))?;
    let parsed = token.parse::<f64>().ok().filter(|number| bounds.contains(number));
    parsed.ok_or_else(|| format!("{what} = {}: {}", shown(token), limit()))
}

fn duration(what: &str, token: Option<&str>) -> Result<Micros, String> {
    const LIMIT: &str = "a delay is 0 to 600 s, as in 500us, 1.5ms or 2s";
    let token = token.ok_or_else(|| format!("{what} lacks its time: {LIMIT}"))?;
    let units = [("us", Micros(1)), ("ms", MILLI), ("s", SECOND)];
    let parsed = units.into_iter().find_map(|(unit, micros)| {
        let number = token.strip_suffix(unit)?.parse::<f64>().ok()? * micros.as_f64();
        (0.0..=MAX_DELAY.as_f64()).contains(&number).then_some(Micros::from_f64(number.round()))
    });
    parsed.ok_or_else(|| format!("{what} {}: {LIMIT}", shown(token)))
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Aspect::Disk(delay) = self.aspect {
            return write!(f, "{} disk delay {}", self.from, Shown(delay));
        }
        let arrow = if self.both { "<->" } else { "->" };
        write!(f, "{} {arrow} {} ", self.from, self.to)?;
        if let Some(kind) = self.kind {
            write!(f, "{} ", kind.name())?;
        }
        match &self.aspect {
            Aspect::Delay(latency) => write!(f, "delay {latency}"),
            Aspect::Drop(chance) => write!(f, "drop {chance}"),
            Aspect::Cut => f.write_str("cut"),
            // A disk has no arrow: it is reported above.
            Aspect::Pass | Aspect::Disk(_) => f.write_str("pass"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            End::Any => "*",
            End::Client => "client",
            End::Member(name) => name,
        })
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.delay)?;
        if self.offset > Micros::ZERO {
            write!(f, " offset {}", Shown(self.offset))?;
        }
        f.write_str(if self.fifo { " fifo" } else { "" })
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Delay::Fixed(delay) => write!(f, "fixed {}", Shown(*delay)),
            Delay::Exponential(mean) => write!(f, "exponential {}", Shown(*mean)),
            Delay::Pareto { scale, shape } => write!(f, "pareto {} {shape}", Shown(*scale)),
            Delay::Mixture(parts) => {
                let part = |(weight, delay): &(f64, Delay)| format!("{weight} {delay}");
                write!(f, "mix {}", parts.iter().map(part).collect::<Vec<_>>().join(" + "))
            }
        }
    }
}

/// A time in the largest unit of which it is a whole number.
struct Shown(Micros);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Micros::ZERO => f.write_str("0ms"),
            time if time.0.is_multiple_of(SECOND.0) => write!(f, "{}s", time / SECOND),
            time if time.0.is_multiple_of(MILLI.0) => write!(f, "{}ms", time / MILLI),
            time => write!(f, "{}us", time.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::Member;
    use crate::rng::Rng;

    fn members() -> Members {
        Members::new(["n1", "n2", "n-3"].map(|name| Member::configured(name, "h:1")).into())
    }

    #[test]
    fn a_rule_and_its_text_are_one() {
        let text = "n1 -> n2 delay exponential 5ms
            * -> * delay pareto 1ms 2.5; * -> * delay mix 0.9 fixed 1ms + 0.1 exponential 20ms fifo
            n1 <-> n-3 cut\n\n* -> client delay fixed 2ms offset 1500us;;* -> * drop 0.05
            client -> n1 pass; n1 -> * gossip cut; * <-> * acks delay fixed 1ms; n2 -> n1 delay \
            fixed 0ms offset 600s fifo
            n1 disk delay 50ms; * disk delay 10s";
        let rules = parse(text, &members()).unwrap();
        let lines: Vec<String> = rules.iter().map(Rule::to_string).collect();
        let trimmed = text.split(['\n', ';']).map(str::trim).filter(|line| !line.is_empty());
        assert_eq!(lines, trimmed.collect::<Vec<_>>());
        let other =
            parse("* -> * delay fixed 1.5ms; * -> * delay fixed 0.25s", &members()).unwrap();
        assert_eq!(other[0].to_string(), "* -> * delay fixed 1500us");
        assert_eq!(other[1].to_string(), "* -> * delay fixed 250ms");
    }

    fn draw(rng: &mut Rng) -> Rule {
        let ends = [End::Any, End::Client, End::Member("n1".into()), End::Member("n-3".into())];
        let from = rng.below(4) as usize;
        let to = (from + 1 + rng.below(3) as usize) % 4;
        let simple = |rng: &mut Rng| match rng.below(3) {
            0 => Delay::Fixed(rng.within(MAX_DELAY + Micros(1))),
            1 => Delay::Exponential(rng.below(10_000) * MILLI),
            _ => Delay::Pareto { scale: rng.within(SECOND), shape: 0.1 + rng.unit() * 99.0 },
        };
        let delay = match rng.below(2) {
            0 => simple(rng),
            _ => {
                let parts = 1 + rng.below(MAX_PARTS as u64);
                Delay::Mixture((0..parts).map(|_| (0.001 + rng.unit(), simple(rng))).collect())
            }
        };
        let offset = Micros(rng.below(3) * 1_234);
        let aspect = match rng.below(4) {
            0 => Aspect::Drop(rng.unit()),
            1 => Aspect::Cut,
            2 => Aspect::Pass,
            _ => Aspect::Delay(Latency { delay, offset, fifo: rng.chance(0.5) }),
        };
        let (from, to) = (ends[from].clone(), ends[to].clone());
        let both = rng.chance(0.5);
        let kind = rng.pick(&Kind::ALL).copied().filter(|_| rng.chance(0.5));
        Rule { from, to, both, kind, aspect }
    }

    #[test]
    fn every_rule_can_be_read_back() {
        let mut rng = Rng::new(5);
        for _ in 0..20 {
            let rules: Vec<Rule> = (0..MAX_RULES).map(|_| draw(&mut rng)).collect();
            let text: Vec<String> = rules.iter().map(Rule::to_string).collect();
            assert_eq!(parse(&text.join("\n"), &members()).unwrap(), rules);
        }
    }

    #[test]
    fn mistakes_are_named_in_one_sentence() {
        let mistakes = [
            ("n1 -> n2 drop 2.0", "drop = 2.0: drop is a number from 0 to 1"),
            ("n1 -> n2 drop", "drop is missing: drop is a number from 0 to 1"),
            ("n1 -> n2 drop nan", "drop = nan: drop is a number from 0 to 1"),
            ("n1 -> n2 delay fixed -5ms", "fixed -5ms: a delay is 0 to 600 s, as in 500us,"),
            ("n1 -> n2 delay fixed 601s", "fixed 601s: a delay is 0 to 600 s"),
            ("n1 -> n2 delay fixed infs", "fixed infs: a delay is 0 to 600 s"),
            ("n1 -> n2 delay fixed 5", "fixed 5: a delay is 0 to 600 s"),
            ("n1 -> n2 delay exponential", "exponential lacks its time"),
            ("n1 -> n2 delay pareto 1ms 0", "the shape of pareto = 0: the shape of pareto is a"),
            ("n1 -> n2 delay mix 0 fixed 1ms", "a weight of mix = 0: a weight of mix is a number"),
            ("n1 -> n2 delay mix 1 fixed 1ms +", "a weight of mix is missing"),
            (
                "n1 -> n2 delay soon",
                "the kind of delay is \"soon\", where fixed, exponential, pareto",
            ),
            ("n1 -> n2 delay fixed 1ms lifo", "behind the delay is \"lifo\", where offset, fifo"),
            ("n1 -> n9 cut", "no member is called \"n9\"; FROM and TO are a member's name, * or"),
            ("n1 -> n2 lag 5ms", "behind TO is \"lag\", where delay, drop, cut or pass is"),
            ("n1 n2 cut", "behind FROM is \"n2\", where -> or <-> is expected"),
            ("n1 -> n2", "behind TO is nothing more, where delay, drop, cut or pass is expected"),
            ("n1 ->", "it lacks an end; a rule is FROM -> TO, then delay, drop, cut or pass"),
            ("n1 -> n2 cut now", "at its end is \"now\", where nothing is expected"),
            ("n1 -> n1 cut", "no link leads from n1 to n1"),
            ("n1 disk", "behind disk is nothing more, where delay is expected"),
            ("n1 disk delay", "disk delay lacks its time: a delay is 0 to 600 s"),
            ("n1 disk delay 11s", "disk delay 11s: a disk takes at most 10s more"),
            ("n1 disk delay 1s fifo", "at its end is \"fifo\", where nothing is expected"),
            ("client disk delay 1s", "behind FROM is \"disk\", where -> or <-> is expected"),
            ("client <-> client cut", "no link leads from client to client"),
        ];
        for (text, stated) in mistakes {
            let error = parse(&format!("* -> * pass; {text}"), &members()).unwrap_err();
            let start = format!("the rule \"{text}\": {stated}");
            assert!(error.starts_with(&start), "{error}");
        }
        let many = "* -> * cut;".repeat(101);
        let stated = "101 rules are too many: a network has at most 100";
        assert_eq!(parse(&many, &members()).unwrap_err(), stated);
        let parts = ["1 fixed 1ms"; 11].join(" + ");
        let error = parse(&format!("* -> * delay mix {parts}"), &members()).unwrap_err();
        assert!(error.contains("...\": a mix has at most 10 parts"), "{error}");
        let noise = parse(&"\u{7}x".repeat(9_999), &members()).unwrap_err();
        assert!(noise.len() < 800 && noise.lines().count() == 1, "{noise}");
    }
}
