//! A strict reader of OpenMetrics text 1.0: what it does not understand is a fault.

use std::collections::{BTreeMap, BTreeSet};

/// The number of each sample, by its name and sorted labels, as in `name{a="b",c="d"}`.
#[derive(Debug)]
pub struct Samples(pub BTreeMap<String, f64>);

impl Samples {
    /// A sample's number; 0 if there is none.
    pub fn of(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    unit: Option<String>,
    help: bool,
    /// Buckets by the other labels: bounds and counts as they come.
    buckets: BTreeMap<String, Vec<(f64, f64)>>,
    counts: BTreeMap<String, f64>,
}

/// Reads the whole text, or says what is wrong with it.
pub fn read(text: &str) -> Result<Samples, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end with # EOF")?;
    let mut samples = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut family = Family::default();
    for line in body.lines() {
        let fault = |what: &str| format!("{what}: {line}");
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let mut word = || words.next().ok_or_else(|| fault("too few words"));
            let (what, name, rest) = (word()?, word()?, word()?);
            if name != family.name {
                finish(&family)?;
                if !is_name(name) || !seen.insert(name.to_owned()) {
                    return Err(fault("a name that is none, or was there before"));
                }
                family = Family { name: name.to_owned(), ..Family::default() };
            }
            match what {
                "TYPE" if family.kind.is_empty() => rest.clone_into(&mut family.kind),
                "UNIT" if family.unit.is_none() && name.ends_with(&format!("_{rest}")) => {
                    family.unit = Some(rest.to_owned());
                }
                "HELP" if !family.help && !rest.is_empty() => family.help = true,
                _ => return Err(fault("a second or unknown description")),
            }
            continue;
        }
        let (name, mut labels, number) = sample(line).ok_or_else(|| fault("no sample"))?;
        let suffix = name.strip_prefix(&family.name).ok_or_else(|| fault("of another family"))?;
        let number: f64 = number.parse().map_err(|_| fault("no number"))?;
        check(&family, suffix, &labels, number).map_err(|what| fault(&what))?;
        if suffix == "_bucket" {
            let le = labels.iter().position(|(label, _)| label == "le");
            let (_, bound) = labels.remove(le.ok_or_else(|| fault("a bucket without le"))?);
            let bound = if bound == "+Inf" { Ok(f64::INFINITY) } else { bound.parse() };
            let bound = bound.map_err(|_| fault("a bound that is no number"))?;
            let buckets = family.buckets.entry(shown(&labels)).or_default();
            buckets.push((bound, number));
            labels.push(("le".to_owned(), bound.to_string()));
        } else if suffix == "_count" {
            family.counts.insert(shown(&labels), number);
        }
        let key = format!("{name}{}", shown(&labels));
        if samples.insert(key, number).is_some() {
            return Err(fault("twice"));
        }
    }
    finish(&family)?;
    Ok(Samples(samples))
}

fn check(
    family: &Family,
    suffix: &str,
    labels: &[(String, String)],
    number: f64,
) -> Result<(), String> {
    if family.kind.is_empty() || !family.help {
        return Err("without TYPE or HELP".into());
    }
    let unit = ["seconds", "bytes"].into_iter().find(|unit| family.name.ends_with(unit));
    if family.unit.as_deref() != unit {
        return Err(format!("UNIT {:?}", family.unit));
    }
    let fits = match family.kind.as_str() {
        "gauge" => suffix.is_empty() && number.is_finite(),
        "counter" => suffix == "_total" && number.is_finite() && number >= 0.0,
        "histogram" => ["_bucket", "_count", "_sum"].contains(&suffix) && number >= 0.0,
        "info" => suffix == "_info" && number == 1.0,
        "stateset" => {
            let state = labels.iter().any(|(label, _)| *label == family.name);
            suffix.is_empty() && state && (number == 0.0 || number == 1.0)
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("not a sample of a {}", family.kind)) }
}

/// What can only be judged when a family is complete.
fn finish(family: &Family) -> Result<(), String> {
    for (labels, buckets) in &family.buckets {
        let ascending =
            buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let last = buckets.last().copied();
        if !ascending || last.map(|(bound, _)| bound) != Some(f64::INFINITY) {
            return Err(format!("the buckets of {}{labels} do not ascend to +Inf", family.name));
        }
        if family.counts.get(labels) != last.map(|(_, count)| count).as_ref() {
            return Err(format!("{}{labels}: +Inf and the count differ", family.name));
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

fn shown(labels: &[(String, String)]) -> String {
    let mut labels: Vec<String> =
        labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
    labels.sort_unstable();
    if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
}

type Labels = Vec<(String, String)>;

fn sample(line: &str) -> Option<(&str, Labels, &str)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            if !is_name(label) || labels.iter().any(|(other, _)| other == label) {
                return None;
            }
            labels.push((label.to_owned(), value));
            match after.split_at_checked(1)? {
                (",", after) => rest = after,
                ("}", after) => {
                    rest = after;
                    break;
                }
                _ => return None,
            }
        }
    }
    let number = rest.strip_prefix(' ')?;
    (is_name(name) && !number.contains(' ')).then_some((name, labels, number))
}

/// The value up to the closing quote, and what follows that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                same @ ('\\' | '"') => same,
                _ => return None,
            }),
            letter => value.push(letter),
        }
    }
    None
}

#[test]
fn faults_are_found() {
    let good = "# TYPE a histogram\n# HELP a A.\na_bucket{le=\"1.0\"} 1\na_bucket{le=\"+Inf\"} \
        2\na_count 2\n\
                a_sum 3.5\n# TYPE b_bytes gauge\n# UNIT b_bytes bytes\n# HELP b_bytes \
        B.\nb_bytes{x=\"\\\"\\n\"} 7\n\
                # EOF\n";
    assert_eq!(read(good).unwrap().of("b_bytes{x=\"\\\"\\n\"}"), 7.0);
    for (from, to) in [
        ("# EOF\n", ""),
        ("# UNIT b_bytes bytes\n", ""),
        ("# HELP a A.\n", ""),
        ("a_count 2", "a_count 3"),
        ("+Inf\"} 2", "+Inf\"} 0"),
        ("a_bucket{le=\"+Inf\"} 2\n", ""),
        ("b_bytes{", "b_bytes_total{"),
        ("b_bytes{", "c_bytes{"),
        ("} 7", "} seven"),
        ("} 7", "} 7\n\nb_bytes 8"),
        ("} 7\n", "} 7\n# TYPE a gauge\n# HELP a A.\na 1\n"),
        ("a_sum", "a_sum 1\na_sum"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(read(&bad).is_err(), "{bad}");
    }
}
