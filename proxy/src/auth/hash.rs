//! One password hash as `crypt(3)` and htpasswd write it, and how much work it is to check.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use bcrypt::HashParts;
use sha_crypt::{PasswordVerifier, ShaCrypt};

/// Below 4 there is no bcrypt; 17 is where `htpasswd -C` ends: some 8 s of a core, doubled by each
/// further step.
pub(super) const BCRYPT_COSTS: RangeInclusive<u32> = 4..=17;
/// `crypt(5)` has at least 1,000 rounds; with the longest password the upper end is some 10 s
/// of a core.
pub(super) const SHA_ROUNDS: RangeInclusive<u32> = MIN_ROUNDS..=5_000_000;
/// Fewest rounds of SHA-crypt.
pub(super) const MIN_ROUNDS: u32 = 1_000;
/// Rounds of SHA-crypt for a hash without a number.
const DEFAULT_ROUNDS: u32 = 5_000;

const REHASH: &str = "replace the line with the output of `sluicegate hash-password NAME`";
const MISTYPED: &str = "the hash is truncated, mistyped or followed by other text";

/// Prefixes of hashes that the gateway does not check.
const REFUSED: [(&str, &str); 10] = [
    ("$apr1$", "apr1 hashes are MD5, too fast to resist guessing"),
    ("$1$", "$1$ hashes are MD5, too fast to resist guessing"),
    ("{SHA}", "{SHA} hashes are SHA-1 without salt, too fast to resist guessing"),
    ("{SSHA}", "{SSHA} hashes are one round of SHA-1, too fast to resist guessing"),
    ("$2x$", "$2x$ hashes come from a faulty bcrypt (CVE-2011-2483)"),
    ("$2$", "$2$ hashes are the obsolete first version of bcrypt"),
    ("$y$", "yescrypt is not supported"),
    ("$7$", "scrypt is not supported"),
    ("$argon2", "argon2 is not supported"),
    ("{", "LDAP password schemes are not supported"),
];

/// The reason a hash cannot be used, and the remedy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HashError {
    pub(super) cause: Cow<'static, str>,
    pub(super) remedy: &'static str,
}

impl HashError {
    fn new(cause: impl Into<Cow<'static, str>>) -> Self {
        Self { cause: cause.into(), remedy: REHASH }
    }
}

/// Computing time of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// 2 to the power of this.
    Bcrypt(u32),
    /// Rounds of SHA-256.
    Sha256(u32),
    /// Rounds of SHA-512.
    Sha512(u32),
}

/// A hash with a bounded cost of checking.
pub(super) struct Hash {
    work: Work,
    text: String,
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} [secret]", self.work)
    }
}

impl Hash {
    /// Parses a hash; accepts a well-formed one of a kind that withstands guessing, if checking it
    /// is not so expensive as to hold up other clients.
    pub(super) fn parse(text: &str) -> Result<Self, HashError> {
        let work = if ["$2a$", "$2b$", "$2y$"].iter().any(|start| text.starts_with(start)) {
            parse_bcrypt(text)?
        } else if let Some(fields) = text.strip_prefix("$5$") {
            Work::Sha256(parse_sha(fields, 43)?)
        } else if let Some(fields) = text.strip_prefix("$6$") {
            Work::Sha512(parse_sha(fields, 86)?)
        } else {
            return Err(refused(text));
        };
        Ok(Self { work, text: text.to_owned() })
    }

    /// A hash of no password, to spend the same work on.
    pub(super) fn dummy(work: Work) -> Self {
        let text = match work {
            Work::Bcrypt(cost) => format!("$2b${cost:02}${}", ".".repeat(53)),
            Work::Sha256(rounds) => format!("$5$rounds={rounds}${}${}", ".".repeat(16), ".".repeat(43)),
            Work::Sha512(rounds) => format!("$6$rounds={rounds}${}${}", ".".repeat(16), ".".repeat(86)),
        };
        Self { work, text }
    }

    /// Returns true if both are equal as text, salt included.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.text == other.text
    }

    /// Returns the cost of a check.
    pub(super) const fn work(&self) -> Work {
        self.work
    }

    /// Returns true if this is the hash of `password`. The comparison takes the same time wherever
    /// the two differ (both crates ensure it), and the hash takes the time given by [`Hash::work`].
    ///
    /// bcrypt reads only the first 72 bytes of a password. A longer one is accepted here, because
    /// the tool that made the line (htpasswd, mkpasswd) cut it at the same place, and 72 bytes are
    /// beyond guessing; `sluicegate hash-password` refuses to make such a line.
    pub(super) fn matches(&self, password: &[u8]) -> bool {
        match self.work {
            Work::Bcrypt(_) => bcrypt::verify(password, &self.text).unwrap_or(false),
            Work::Sha256(_) | Work::Sha512(_) => {
                ShaCrypt::default().verify_password(password, self.text.as_str()).is_ok()
            }
        }
    }
}

fn parse_bcrypt(text: &str) -> Result<Work, HashError> {
    let cost = text.parse::<HashParts>().map_err(|_| HashError::new(MISTYPED))?.get_cost();
    bounded("bcrypt cost", cost, BCRYPT_COSTS).map(Work::Bcrypt)
}

/// Reads `[rounds=N$]SALT$HASH`, as in Drepper's "Unix crypt using SHA-256 and SHA-512".
fn parse_sha(fields: &str, length: usize) -> Result<u32, HashError> {
    let (rounds, rest) = match fields.strip_prefix("rounds=").and_then(|rest| rest.split_once('$')) {
        Some((rounds, rest)) => (rounds.parse().map_err(|_| HashError::new(MISTYPED))?, rest),
        None => (DEFAULT_ROUNDS, fields),
    };
    let (salt, hash) = rest.split_once('$').ok_or_else(|| HashError::new(MISTYPED))?;
    let complete = (1..=16).contains(&salt.len()) && digits(salt) && hash.len() == length && digits(hash);
    if !complete || !ends_cleanly(hash) {
        return Err(HashError::new(MISTYPED));
    }
    bounded("number of SHA-crypt rounds", rounds, SHA_ROUNDS)
}

/// Returns true if the last digit holds no bits beyond the hash's: 256 bits are 42 digits and 4
/// bits, 512 are 85 digits and 2 bits, and a hash with more could never match.
fn ends_cleanly(hash: &str) -> bool {
    let bits_left = if hash.len() == 43 { 4 } else { 2 };
    hash.bytes().last().and_then(value).is_some_and(|value| value < 1 << bits_left)
}

/// The value of a digit of `crypt(3)`'s base64.
fn value(digit: u8) -> Option<u8> {
    match digit {
        b'.' => Some(0),
        b'/' => Some(1),
        b'0'..=b'9' => Some(digit - b'0' + 2),
        b'A'..=b'Z' => Some(digit - b'A' + 12),
        b'a'..=b'z' => Some(digit - b'a' + 38),
        _ => None,
    }
}

fn digits(text: &str) -> bool {
    text.bytes().all(|digit| value(digit).is_some())
}

fn bounded(what: &str, number: u32, range: RangeInclusive<u32>) -> Result<u32, HashError> {
    if range.contains(&number) {
        return Ok(number);
    }
    let (least, most) = range.into_inner();
    Err(HashError::new(format!("the {what} {number} is out of range: {least} to {most} are accepted")))
}

fn refused(text: &str) -> HashError {
    if let Some((_, why)) = REFUSED.iter().find(|(start, _)| text.starts_with(start)) {
        return HashError::new(*why);
    }
    if text.is_empty() {
        return HashError::new("no hash after the name");
    }
    if text.len() == 13 && digits(text) {
        return HashError::new("a DES hash, which uses only 8 characters of a password, or a plain password");
    }
    HashError::new("unknown kind of hash; plain passwords are not accepted")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "s3cret:with:@/%ü";

    /// Made by htpasswd 2.4.71, mkpasswd 5.5.17 and OpenSSL 3.0.22.
    const VECTORS: [(&str, Work); 9] = [
        // htpasswd -nbB -C 4
        ("$2y$04$s3nEBtS7Qzw9ctn.NRIzs.IQt8.B7mCW1RaVx4LMDuSuTuhtnSTGa", Work::Bcrypt(4)),
        // mkpasswd -m bcrypt -R 4, mkpasswd -m bcrypt-a -R 4; both raise the cost to 5
        ("$2b$05$j4ySaw5nneJWMXCHNtxGROS.Rs/GJei.mnotUGUJeEqQeOj8O2R76", Work::Bcrypt(5)),
        ("$2a$05$E6o9hS5GOT3mQESNMfR7d.K4xqyT0m4GJI6C0qOXhYvFWGH78lMSS", Work::Bcrypt(5)),
        // htpasswd -nb2 -r 1000, htpasswd -nb5 -r 1000
        ("$5$rounds=1000$xfILwX1TuP.3a311$bKAHqMA4Tcs7SgITqY6R/X7FiVU1FzFO.EF/LlMbdO9", Work::Sha256(1000)),
        (
            "$6$rounds=1000$uyUhuusyHZ7jUYv1$ovv19jaObrsACMdpHtEocJlw4s21VERujDM1G5KaPuV3H9KhMXnnNlzHnvYdACg8KBZJLb90EBSrMniydd0QA.",
            Work::Sha512(1000),
        ),
        // mkpasswd -m sha-256 -R 1000, mkpasswd -m sha-512 -R 1000
        ("$5$rounds=1000$Kzut1K4FxlUVEbxB$DplmSfO4u0ATH.kzRLeCyAgze1OGrP6l93QnPOx70A0", Work::Sha256(1000)),
        (
            "$6$rounds=1000$Txr7PPFX5SHpPZbQ$aza.Jp9Bmd8qPWJE4R3QwArmPn4SyevQMulzqBzAWHfEK7Vh9jCMbs/8aFY6wyCNE3Iw29VLafd.DtJrsFDfJ/",
            Work::Sha512(1000),
        ),
        // openssl passwd -5 -salt 0123456789abcdef, openssl passwd -6 -salt abcdefgh
        ("$5$0123456789abcdef$21pSAA3pmomTkq2G3PNRksO0M.IneEuxqo7z/UijxZ/", Work::Sha256(5000)),
        (
            "$6$abcdefgh$VppMjF/BQyecrZmCJUOYzf1A.yPRZ91rupwVv65YUnNnW8P8Rnk6Os4X1rDQI0OS/LhrYNz8OUqahsVxDk.v5.",
            Work::Sha512(5000),
        ),
    ];

    #[test]
    fn hashes_that_other_tools_made() {
        for (text, work) in VECTORS {
            let hash = Hash::parse(text).unwrap_or_else(|unusable| panic!("{text}: {unusable:?}"));
            assert_eq!(hash.work(), work, "{text}");
            assert!(hash.matches(PASSWORD.as_bytes()), "{text}");
            assert!(!hash.matches(b"s3cret:with:@/%u"), "{text}");
            assert!(!hash.matches(b""), "{text}");
        }
    }

    #[test]
    fn bcrypt_reads_72_bytes_as_htpasswd_does() {
        // htpasswd -nbB -C 4 long, with 80 times 'x'
        let hash = Hash::parse("$2y$04$i/Ex0XOo2TqKm4T3gWU0DOLN7k2s0vnBhUTO3HnRZFEeMd454PRQK").unwrap();
        assert!(hash.matches("x".repeat(80).as_bytes()));
        assert!(hash.matches("x".repeat(72).as_bytes()));
        assert!(!hash.matches("x".repeat(71).as_bytes()));
    }

    #[test]
    fn refused_hashes_name_the_reason() {
        let sha = "$6$rounds=ROUNDS$uyUhuusyHZ7jUYv1$ovv19jaObrsACMdpHtEocJlw4s21VERujDM1G5KaPuV3H9KhMXnnNlzHnvYdACg8KBZJLb90EBSrMniydd0QA.";
        let bcrypt = "$2y$COST$s3nEBtS7Qzw9ctn.NRIzs.IQt8.B7mCW1RaVx4LMDuSuTuhtnSTGa";
        for (text, cause) in [
            ("$apr1$pdAXX3ov$KRb3PveJ6q/azJzUJ.Qyo/", "apr1"),
            ("$1$h7a1C4bZ$P.CEwD/5SgpsSEkVN2GJY1", "MD5"),
            ("{SHA}GpHWL3ymc5liWkNopqtdSjuqYHM=", "SHA-1"),
            ("{SSHA}GpHWL3ymc5liWkNopqtdSjuqYHM=", "SHA-1"),
            ("{CRYPT}sRi2uD/wr21QE", "LDAP"),
            ("$y$j9T$DzQQH1vFQvpUzUSNu2qOf.$wO3VhKBNdj2MrYOqHBdA0gFrufKV3hz7aW4Ofe0qv4B", "yescrypt"),
            ("$argon2id$v=19$m=65536", "argon2"),
            ("sRi2uD/wr21QE", "DES"),
            ("hunter2", "plain"),
            ("ü$6$", "plain"),
            ("", "no hash"),
            ("$6$", "truncated"),
            ("$6$abcdefgh$short", "truncated"),
            ("$6$rounds=many$abcdefgh$short", "truncated"),
            ("$2b$04$short", "truncated"),
            (&bcrypt.replace("$2y$", "$2x$"), "faulty"),
            (&bcrypt.replace("COST", "03"), "4 to 17"),
            (&bcrypt.replace("COST", "18"), "18 is out of range"),
            (&bcrypt.replace("COST", "31"), "31 is out of range"),
            (&sha.replace("ROUNDS", "999"), "1000 to 5000000"),
            (&sha.replace("ROUNDS", "999999999"), "999999999 is out of range"),
            (&sha.replace("ROUNDS", "99999999999"), "truncated"),
            (&format!("{}x", sha.replace("ROUNDS", "1000")), "truncated"),
            (&sha.replace("ROUNDS", "1000").replace("QA.", "QAz"), "truncated"),
            (&sha.replace("ROUNDS", "1000").replace("uyUhuusyHZ7jUYv1", "uyUhuusyHZ7jUYv17"), "truncated"),
            (&sha.replace("ROUNDS", "1000").replace("uyUhuusyHZ7jUYv1", ""), "truncated"),
        ] {
            let unusable = Hash::parse(text).expect_err(text);
            assert!(unusable.cause.contains(cause), "{text}: {unusable:?}");
            assert!(unusable.remedy.contains("sluicegate hash-password"), "{text}");
        }
    }

    /// A dummy that fails early would take no time and reveal that a user does not exist.
    #[test]
    fn dummies_are_real_work() {
        for work in [Work::Bcrypt(4), Work::Sha256(1000), Work::Sha512(6000)] {
            let dummy = Hash::dummy(work);
            assert_eq!(Hash::parse(&dummy.text).map(|hash| hash.work()), Ok(work));
            assert!(!dummy.matches(b"anything"));
        }
        assert!(matches!(bcrypt::verify("anything", &Hash::dummy(Work::Bcrypt(4)).text), Ok(false)));
        let sha = ShaCrypt::default().verify_password(b"anything", Hash::dummy(Work::Sha512(1000)).text.as_str());
        assert_eq!(sha, Err(sha_crypt::password_hash::Error::PasswordInvalid));
    }

    #[test]
    fn debug_hides_the_hash() {
        let hash = Hash::parse(VECTORS[0].0).unwrap();
        assert_eq!(format!("{hash:?}"), "Bcrypt(4) [secret]");
    }
}
