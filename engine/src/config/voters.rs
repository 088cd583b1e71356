//! How many voters a group is better off with. Nothing is refused: while members change, any number occurs.

use alloc::vec::Vec;

/// With more, each write waits for so many disks that it is rarely worth it.
const VOTERS_MAX: usize = 7;

/// What speaks against a number of voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VotersWarning {
    #[error(
        "{voters} voters tolerate as many failures as {}, which is {}: an even number adds none. Use 3, 5 or 7",
        voters - 1,
        voters / 2 - 1
    )]
    Even { voters: usize },
    #[error(
        "{voters} voters: each write waits until {} disks have it, and no more than {VOTERS_MAX} are recommended. \
         Use 3, 5 or 7, and observers where only copies are wanted",
        voters / 2 + 1
    )]
    Many { voters: usize },
}

impl VotersWarning {
    /// What there is to say about so many.
    pub fn of(voters: usize) -> Vec<Self> {
        let even = voters > 0 && voters.is_multiple_of(2);
        let even = even.then_some(Self::Even { voters });
        let many = (voters > VOTERS_MAX).then_some(Self::Many { voters });
        even.into_iter().chain(many).collect()
    }

    /// What logs call it.
    pub fn event(self) -> &'static str {
        match self {
            Self::Even { .. } => "voters.even",
            Self::Many { .. } => "voters.many",
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::{String, ToString};

    use super::*;

    #[test]
    fn even_numbers_and_more_than_seven_are_warned_of() {
        #[rustfmt::skip]
        let table: &[(usize, &[&str])] = &[
            (0, &[]), (1, &[]), (2, &["voters.even"]), (3, &[]), (4, &["voters.even"]), (5, &[]),
            (6, &["voters.even"]), (7, &[]), (8, &["voters.even", "voters.many"]), (9, &["voters.many"]),
        ];
        for &(voters, expected) in table {
            let warnings = VotersWarning::of(voters);
            let events: Vec<&str> = warnings.iter().map(|it| it.event()).collect();
            assert_eq!(events, expected, "{voters}");
        }
    }

    #[test]
    fn messages() {
        let said = |voters| -> Vec<String> {
            let warnings = VotersWarning::of(voters);
            warnings.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            said(4),
            [
                "4 voters tolerate as many failures as 3, which is 1: an even number adds none. Use 3, 5 or 7"
            ]
        );
        assert_eq!(
            said(9),
            [
                "9 voters: each write waits until 5 disks have it, and no more than 7 are recommended. \
                 Use 3, 5 or 7, and observers where only copies are wanted"
            ]
        );
    }
}
