//! What was refused to whom, so that the log has a line of it now and then, whatever the other side does.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Of whom it is remembered what was told.
const MAX_REMEMBERED: usize = 1_024;
/// A reason is told again after this time, if it still holds,
const AGAIN: Duration = Duration::from_secs(600);
/// and another one of the same party after this time: it may be a stranger, whose bytes are in the reason.
const REST: Duration = Duration::from_secs(10);

/// The last line about each party.
#[derive(Debug, Default)]
pub(super) struct News(HashMap<String, (String, Instant)>);

impl News {
    /// True if `reason`, for which `who` is refused, is to be logged: it has not been lately.
    pub(super) fn tells(&mut self, now: Instant, who: &str, reason: &str) -> bool {
        let told = self.0.get(who);
        let rests = told.is_some_and(|(last, at)| {
            now.saturating_duration_since(*at) < if last == reason { AGAIN } else { REST }
        });
        if rests {
            return false;
        }
        if self.0.len() >= MAX_REMEMBERED {
            self.0.clear();
        }
        self.0.insert(who.to_owned(), (reason.to_owned(), now));
        true
    }

    /// Forgets what was refused to `who`, who has been let in.
    pub(super) fn forget(&mut self, who: &str) {
        self.0.remove(who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_is_told_of_once_in_a_while_whatever_it_says() {
        let (mut news, begun) = (News::default(), Instant::now());
        let mut told = |after: u64, who: &str, why: &str| {
            news.tells(begun + Duration::from_secs(after), who, why)
        };
        assert!(told(0, "a", "its magic is AAAA"));
        assert!(told(0, "b", "its magic is AAAA"), "another one is another one's news");
        let varied = (1..1_000).filter(|n| told(0, "a", &format!("its magic is {n}"))).count();
        assert_eq!(varied, 0);
        assert!(!told(11, "a", "its magic is AAAA"));
        assert!(told(11, "a", "its magic is BBBB"));
        assert!(!told(600, "a", "its magic is BBBB"));
        assert!(told(611, "a", "its magic is BBBB"), "it still holds");
        news.forget("a");
        assert!(news.tells(begun, "a", "its magic is BBBB"));
    }
}
