//! Logs of which the server has refused every record.
//!
//! That may be the server's fault, so it is no reason to give the records up. But what is wrong
//! with one log must not keep the others from being tried; and if the server takes those, it is the
//! records.

use crate::name::FileName;

/// Such logs, and whether the server has taken anything of another one since.
#[derive(Default)]
pub(crate) struct Refused(Vec<(FileName, bool)>);

impl Refused {
    /// All that was tried of this log was refused.
    pub fn note(&mut self, name: &FileName) {
        self.forget(name);
        self.0.push((name.clone(), false));
    }

    /// A batch of this log is settled, and so many records of it were taken.
    pub fn settled(&mut self, name: &FileName, taken: u64) {
        self.forget(name);
        if taken > 0 {
            self.0.iter_mut().for_each(|(_, others)| *others = true);
        }
    }

    /// Does the server refuse this log and take others?
    pub fn is_alone(&self, name: &FileName) -> bool {
        self.0
            .iter()
            .any(|(known, others)| known == name && *others)
    }

    /// Puts these logs behind the others.
    pub fn put_last(&self, names: &mut Vec<FileName>) {
        let is_last = |name: &FileName| self.0.iter().any(|(known, _)| known == name);
        let last: Vec<_> = names.iter().filter(|name| is_last(name)).cloned().collect();
        names.retain(|name| !is_last(name));
        names.extend(last);
    }

    fn forget(&mut self, name: &FileName) {
        self.0.retain(|(known, _)| known != name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u8) -> FileName {
        FileName::new(u64::from(n), [n; 16])
    }

    #[test]
    fn they_come_last_in_their_order_until_something_of_them_is_settled() {
        let mut refused = Refused::default();
        refused.note(&name(3));
        refused.note(&name(1));
        let order = |refused: &Refused| {
            let mut names: Vec<_> = (1..=4).map(name).collect();
            refused.put_last(&mut names);
            names
        };
        assert_eq!(order(&refused), [2, 4, 1, 3].map(name));
        refused.settled(&name(1), 0);
        assert_eq!(order(&refused), [1, 2, 4, 3].map(name));
    }

    #[test]
    fn what_is_taken_of_another_log_says_that_it_is_the_records() {
        let mut refused = Refused::default();
        refused.note(&name(1));
        refused.note(&name(2));
        assert!(!refused.is_alone(&name(1)));
        refused.settled(&name(3), 0);
        assert!(!refused.is_alone(&name(1)));
        refused.settled(&name(2), 1);
        assert!(refused.is_alone(&name(1)) && !refused.is_alone(&name(2)));
        // Each time anew.
        refused.note(&name(1));
        assert!(!refused.is_alone(&name(1)));
    }
}
