//! Equal work for every failed password check, so that its time tells nothing about the user.

use super::hash::{MIN_ROUNDS, Work};

/// The work of every failed check of a table: for each kind of hash the most that any user has.
///
/// SHA-crypt cannot do fewer than 1,000 rounds, so where users differ in rounds the most is raised
/// by as much, and the remaining work is never too little to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ceiling(TotalWork);

/// Work by kind: bcrypt's in units of two to the power of the cost, SHA-crypt's in rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct TotalWork {
    bcrypt: u64,
    sha256: u32,
    sha512: u32,
}

impl TotalWork {
    fn of(works: &[Work]) -> Self {
        works.iter().fold(Self::default(), |mut done, work| {
            match work {
                Work::Bcrypt(cost) => done.bcrypt += 1 << cost,
                Work::Sha256(rounds) => done.sha256 += rounds,
                Work::Sha512(rounds) => done.sha512 += rounds,
            }
            done
        })
    }
}

impl Ceiling {
    pub(super) fn of(accounts: impl Iterator<Item = Vec<Work>>) -> Self {
        let all: Vec<TotalWork> = accounts.map(|works| TotalWork::of(&works)).collect();
        let most_rounds =
            |rounds: fn(&TotalWork) -> u32| most_rounds(all.iter().map(rounds).filter(|rounds| *rounds > 0));
        Self(TotalWork {
            bcrypt: all.iter().map(|done| done.bcrypt).max().unwrap_or(0),
            sha256: most_rounds(|done| done.sha256),
            sha512: most_rounds(|done| done.sha512),
        })
    }

    /// Returns the work left after `done`.
    pub(super) fn remaining(&self, done: &[Work]) -> Vec<Work> {
        let (most, done) = (self.0, TotalWork::of(done));
        // A hash for each bit of the missing work. All costs are at least 4, so the lowest bit is
        // a valid cost too.
        let missing = most.bcrypt - done.bcrypt;
        let bcrypt = (0..u64::BITS).filter(|bit| missing >> bit & 1 == 1).map(Work::Bcrypt);
        let rounds = |most: u32, done: u32, work: fn(u32) -> Work| Some(most - done).filter(|left| *left > 0).map(work);
        let sha256 = rounds(most.sha256, done.sha256, Work::Sha256);
        bcrypt.chain(sha256).chain(rounds(most.sha512, done.sha512, Work::Sha512)).collect()
    }
}

fn most_rounds(rounds: impl Iterator<Item = u32> + Clone) -> u32 {
    let (least, most) = (rounds.clone().min().unwrap_or(0), rounds.max().unwrap_or(0));
    if least == most { most } else { most + MIN_ROUNDS }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The work in each kind: bcrypt's in units of its cost parameter's power, SHA's in rounds.
    fn sums(works: impl IntoIterator<Item = Work>) -> (u64, u64, u64) {
        works.into_iter().fold((0, 0, 0), |(b, s, t), work| match work {
            Work::Bcrypt(cost) => (b + (1 << cost), s, t),
            Work::Sha256(rounds) => (b, s + u64::from(rounds), t),
            Work::Sha512(rounds) => (b, s, t + u64::from(rounds)),
        })
    }

    #[test]
    fn every_failure_comes_to_the_same_work() {
        use Work::{Bcrypt, Sha256, Sha512};
        let files: [&[&[Work]]; 8] = [
            &[&[Bcrypt(10)]],
            &[&[Bcrypt(4)], &[Bcrypt(10)], &[Bcrypt(12)]],
            &[&[Sha512(5000)], &[Sha512(5000)]],
            &[&[Sha512(5000)], &[Sha512(5500)], &[Sha512(500_000)]],
            &[&[Bcrypt(5)], &[Sha256(1000)], &[Sha512(5000)]],
            &[&[Bcrypt(5)], &[Bcrypt(6)], &[Sha256(1000)], &[Sha256(1001)], &[Sha512(5000)], &[Sha512(9000)]],
            &[&[Bcrypt(5), Bcrypt(5)], &[Bcrypt(5)], &[Bcrypt(4)]],
            &[&[Bcrypt(10), Sha512(5000)], &[Sha512(5000), Sha512(5000)], &[Bcrypt(4), Bcrypt(12)], &[Sha256(1000)]],
        ];
        for file in files {
            let ceiling = Ceiling::of(file.iter().map(|works| works.to_vec()));
            let unknown = sums(ceiling.remaining(&[]));
            for own in file {
                let remaining = ceiling.remaining(own);
                assert_eq!(sums(remaining.iter().chain(*own).copied()), unknown, "{own:?} of {file:?}");
                for work in remaining {
                    let possible = match work {
                        Bcrypt(cost) => cost >= 4,
                        Sha256(rounds) | Sha512(rounds) => rounds >= MIN_ROUNDS,
                    };
                    assert!(possible, "{work:?} after {own:?} of {file:?}");
                }
            }
        }
    }

    #[test]
    fn one_kind_at_one_cost_is_one_hash() {
        let ceiling = Ceiling::of([vec![Work::Bcrypt(10)], vec![Work::Bcrypt(10)]].into_iter());
        assert_eq!(ceiling.remaining(&[]), [Work::Bcrypt(10)]);
        assert_eq!(ceiling.remaining(&[Work::Bcrypt(10)]), []);
    }
}
