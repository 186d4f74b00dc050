//! How exchanges choose queues.

use std::collections::HashMap;

use super::queue::QueueId;
use crate::spec::ExchangeKind;

/// An exchange with its bindings.
#[derive(Debug)]
pub(super) enum Exchange {
    Direct(HashMap<String, Vec<QueueId>>),
    Topic(Vec<TopicBinding>),
}

#[derive(Debug)]
pub(super) struct TopicBinding {
    pattern: String,
    queue: QueueId,
}

impl Exchange {
    pub(super) fn new(kind: ExchangeKind) -> Self {
        match kind {
            ExchangeKind::Direct => Self::Direct(HashMap::new()),
            ExchangeKind::Topic => Self::Topic(Vec::new()),
        }
    }

    pub(super) fn kind(&self) -> ExchangeKind {
        match self {
            Self::Direct(_) => ExchangeKind::Direct,
            Self::Topic(_) => ExchangeKind::Topic,
        }
    }

    /// Adds a binding unless it exists.
    pub(super) fn bind(&mut self, key: &str, queue: QueueId) {
        match self {
            Self::Direct(keys) => {
                let queues = keys.entry(key.to_owned()).or_default();
                if !queues.contains(&queue) {
                    queues.push(queue);
                }
            }
            Self::Topic(bindings) => {
                if !bindings
                    .iter()
                    .any(|binding| binding.queue == queue && binding.pattern == key)
                {
                    bindings.push(TopicBinding {
                        pattern: key.to_owned(),
                        queue,
                    });
                }
            }
        }
    }

    /// Removes one binding of a queue that is deleted.
    pub(super) fn unbind(&mut self, key: &str, queue: QueueId) {
        match self {
            Self::Direct(keys) => {
                if let Some(queues) = keys.get_mut(key) {
                    queues.retain(|bound| *bound != queue);
                    if queues.is_empty() {
                        keys.remove(key);
                    }
                }
            }
            Self::Topic(bindings) => {
                bindings.retain(|binding| binding.queue != queue || binding.pattern != key);
            }
        }
    }

    /// The queues that get a message, each once, in the order of their bindings.
    pub(super) fn route(&self, key: &str) -> Vec<QueueId> {
        match self {
            Self::Direct(keys) => keys.get(key).cloned().unwrap_or_default(),
            Self::Topic(bindings) => {
                let mut queues = Vec::new();
                for binding in bindings {
                    if !queues.contains(&binding.queue) && topic_matches(&binding.pattern, key) {
                        queues.push(binding.queue);
                    }
                }
                queues
            }
        }
    }
}

/// Whether a routing key, words separated by dots, matches a pattern in which `*` stands for exactly one word and `#`
/// for any number of words, none included. An empty key has no words.
pub(super) fn topic_matches(pattern: &str, key: &str) -> bool {
    // Greedy with one point of return: on a mismatch the latest `#` takes one more word.
    let pattern: Vec<&str> = words(pattern).collect();
    let key: Vec<&str> = words(key).collect();
    let (mut at_pattern, mut at_key) = (0, 0);
    let mut resume: Option<(usize, usize)> = None;
    while at_key < key.len() {
        match pattern.get(at_pattern) {
            Some(&"#") => {
                resume = Some((at_pattern + 1, at_key));
                at_pattern += 1;
            }
            Some(&word) if word == "*" || word == key[at_key] => {
                at_pattern += 1;
                at_key += 1;
            }
            _ => {
                let Some((after_hash, taken)) = resume else {
                    return false;
                };
                resume = Some((after_hash, taken + 1));
                at_pattern = after_hash;
                at_key = taken + 1;
            }
        }
    }
    pattern[at_pattern..].iter().all(|word| *word == "#")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split('.').filter(move |_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, written as plainly as possible.
    fn reference(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), None) => reference(rest, key),
            (Some((&"#", rest)), Some((_, shorter))) => {
                reference(rest, key) || reference(pattern, shorter)
            }
            (None, Some(_)) | (Some(_), None) => false,
            (Some((word, rest)), Some((first, shorter))) => {
                (*word == "*" || word == first) && reference(rest, shorter)
            }
        }
    }

    #[test]
    fn matches_known_cases() {
        let cases = [
            ("state.#", "state", true),
            ("state.#", "state.x", true),
            ("state.#", "state.x.y", true),
            ("state.#", "statex", false),
            ("#", "", true),
            ("*", "", false),
            ("", "", true),
            ("*", "a", true),
            ("*.b", "a.b", true),
            ("a.#.d", "a.d", true),
            ("a.#.d", "a.b.c.d", true),
            ("a.#.d", "a.b.c.e", false),
            ("a..b", "a..b", true),
            ("a.*.b", "a..b", true),
        ];
        for (pattern, key, expected) in cases {
            assert_eq!(topic_matches(pattern, key), expected, "{pattern} {key}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "#"]), 1..7),
            key in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 1..8),
        ) {
            prop_assert_eq!(topic_matches(&pattern.join("."), &key.join(".")), reference(&pattern, &key));
        }

        #[test]
        fn a_key_matches_itself_and_everything(key in prop::collection::vec("[a-z0-9%_-]{0,5}", 1..6)) {
            let key = key.join(".");
            prop_assert!(topic_matches(&key, &key));
            prop_assert!(topic_matches("#", &key));
        }
    }
}
