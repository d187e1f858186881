//! Authentication as a whole: the hashes computed, their users and number, and the state after a
//! reload.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use metrics_exporter_prometheus::PrometheusBuilder;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::failures::BURST;
use super::hash::{Hash, Work};
use super::hash_pool::Pool;
use super::queue::{WAITING, WAITING_PER_FAILING_SOURCE, WAITING_PER_SOURCE};
use super::verify::CHECK_TIMEOUT;
use super::*;
use crate::reason::Refusal;
use crate::user_policy::UserPolicy;

const PASSWORD: &str = "s3cret:with:@/%ü";
/// The hash of `PASSWORD`, by `htpasswd -nbB -C 4`.
const BCRYPT_4: &str = "$2y$04$s3nEBtS7Qzw9ctn.NRIzs.IQt8.B7mCW1RaVx4LMDuSuTuhtnSTGa";
/// The hash of `PASSWORD`, by `mkpasswd -m bcrypt` with cost 5.
const BCRYPT_5: &str = "$2b$05$j4ySaw5nneJWMXCHNtxGROS.Rs/GJei.mnotUGUJeEqQeOj8O2R76";
/// The hash of `PASSWORD`, by `htpasswd -nb2 -r 1000`.
const SHA256: &str = "$5$rounds=1000$xfILwX1TuP.3a311$bKAHqMA4Tcs7SgITqY6R/X7FiVU1FzFO.EF/LlMbdO9";
const DEADLINE: Duration = Duration::from_secs(60);

/// Stands in for the hashing: counts it, and holds it up while closed.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    works: Mutex<Vec<Work>>,
    passwords: Mutex<Vec<Vec<u8>>>,
    /// Compares instead of hashing, where thousands are checked.
    is_cheap: AtomicBool,
}

impl Gate {
    fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.closed.lock().unwrap() = false;
        self.opened.notify_all();
    }

    fn hashes(&self) -> usize {
        self.works.lock().unwrap().len()
    }

    fn take_works(&self) -> Vec<Work> {
        std::mem::take(&mut self.works.lock().unwrap())
    }

    fn matches(&self, hash: &Hash, password: &[u8]) -> bool {
        self.works.lock().unwrap().push(hash.work());
        self.passwords.lock().unwrap().push(password.to_vec());
        let closed = self.closed.lock().unwrap();
        drop(self.opened.wait_timeout_while(closed, DEADLINE, |closed| *closed).unwrap());
        if self.is_cheap.load(Ordering::Relaxed) { password == PASSWORD.as_bytes() } else { hash.matches(password) }
    }
}

struct Setup {
    dir: TempDir,
    gate: Arc<Gate>,
    auth: Arc<Authenticator>,
}

impl Setup {
    fn new(inline: &[&str], users: &str) -> Self {
        Self::with_networks(inline, users, &[])
    }

    fn with_networks(inline: &[&str], users: &str, networks: &[&str]) -> Self {
        let network = |text: &&str| TrustedNetwork::new(text.parse().unwrap(), text);
        let networks = networks.iter().map(network).collect();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("users"), users).unwrap();
        let gate = Arc::new(Gate::default());
        let mut verifier = Verifier::with(Arc::new({
            let gate = Arc::clone(&gate);
            move |hash: &Hash, password: &[u8]| gate.matches(hash, password)
        }));
        verifier.pool.start().unwrap();
        verifier.timeout = 10 * DEADLINE;
        let inline = inline.iter().map(|user| parse_user(user).unwrap()).collect();
        let users = Users { inline, file: Some(dir.path().join("users")), networks, ..Users::default() };
        let guard = Guard::new(users, verifier).unwrap();
        Self { dir, gate, auth: Arc::new(Authenticator { guard: Some(guard) }) }
    }

    fn guard(&self) -> &Guard {
        self.auth.guard.as_ref().unwrap()
    }

    /// Puts another file in the place of the users file.
    fn replace(&self, users: &str) {
        fs::write(self.dir.path().join("new"), users).unwrap();
        fs::rename(self.dir.path().join("new"), self.dir.path().join("users")).unwrap();
        assert!(!self.auth.changed(), "it may be in the middle of being written");
    }

    async fn check(&self, user: &str, password: &str) -> Result<Option<User>, Failure> {
        self.auth.check(Some(&header(user, password)), ip(1)).await
    }

    fn spawn(&self, password: &str, source: IpAddr) -> JoinHandle<Result<Option<User>, Failure>> {
        let (auth, header) = (Arc::clone(&self.auth), header("alice", password));
        tokio::spawn(async move { auth.check(Some(&header), source).await })
    }

    /// Takes every thread, by guesses of a source of its own.
    async fn busy(&self) -> Vec<JoinHandle<Result<Option<User>, Failure>>> {
        self.gate.take_works();
        self.gate.close();
        let threads = thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).clamp(1, 32);
        let guesses = (0..threads).map(|number| self.spawn(&format!("busy {number}"), ip(200))).collect();
        until("every thread hashes", || self.gate.hashes() == threads).await;
        self.gate.take_works();
        guesses
    }

    /// Requests that wait for a check.
    fn waiters(&self) -> usize {
        self.guard().table().running_checks.waiters()
    }

    /// Checks that wait or run.
    fn checks(&self) -> usize {
        self.guard().verifier.pool.checks()
    }

    /// Nothing of any check is left.
    async fn idle(&self) {
        let flights = || self.guard().table().running_checks.flights();
        until("all is given back", || self.checks() == 0 && self.waiters() == 0 && flights() == 0).await;
    }
}

fn inline(inline: Vec<(String, Secret)>) -> Users {
    Users { inline, ..Users::default() }
}

fn header(user: &str, password: &str) -> Secret {
    Secret::new(format!("basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn alice() -> String {
    format!("alice:{BCRYPT_4}\n")
}

fn granted(name: &str) -> Result<Option<User>, Failure> {
    Ok(Some(User { name: name.into(), user_policy: Arc::default() }))
}

fn reason<T: fmt::Debug>(result: Result<T, Failure>) -> Reason {
    result.expect_err("a refusal").refusal.reason
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let poll = async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(DEADLINE, poll).await.is_ok(), "waited in vain until {what}");
}

#[tokio::test]
async fn an_open_gateway_asks_nobody() {
    let open = Authenticator::open();
    assert_eq!(open.check(None, ip(1)).await, Ok(None));
    assert_eq!(open.check(Some(&Secret::new("Bearer x")), ip(1)).await, Ok(None));
    assert_eq!((open.users(), open.reload(), open.changed()), (0, Ok(0), false));
}

#[test]
fn no_user_at_all_is_refused() {
    let error = Authenticator::new(Users::default()).unwrap_err().to_string();
    assert!(error.contains("--user") && error.contains("--no-auth"), "{error}");
}

#[tokio::test]
async fn users_of_the_command_line_and_of_the_file() {
    let setup = Setup::new(&["bob:pass:word", "ü:ü"], &alice());
    assert_eq!(setup.auth.users(), 3);
    assert_eq!(setup.check("bob", "pass:word").await, granted("bob"));
    assert_eq!(setup.check("ü", "ü").await, granted("ü"));
    assert_eq!(setup.gate.hashes(), 0);
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    for (user, password) in [("bob", "pass"), ("bob", ""), ("alice", "x"), ("", ""), ("ALICE", PASSWORD)] {
        assert_eq!(reason(setup.check(user, password).await), Reason::AuthFailed, "{user}:{password}");
    }
    assert_eq!(reason(setup.auth.check(None, ip(1)).await), Reason::AuthRequired);
}

#[tokio::test]
async fn without_a_file_nothing_is_hashed_or_waited_for() {
    let auth = Authenticator::new(inline(vec![parse_user("bob:pw").unwrap()])).unwrap();
    assert_eq!(auth.check(Some(&header("bob", "pw")), ip(1)).await, granted("bob"));
    assert_eq!(reason(auth.check(Some(&header("bob", "px")), ip(1)).await), Reason::AuthFailed);
    assert_eq!((auth.users(), auth.reload(), auth.changed()), (1, Ok(1), false));
}

#[test]
fn wrong_credentials_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    ::metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let setup = Setup::new(&[], &alice());
            assert!(setup.check("alice", PASSWORD).await.is_ok());
            assert!(setup.auth.check(None, ip(1)).await.is_err());
            assert!(setup.check("alice", "wrong").await.is_err());
            assert!(setup.auth.check(Some(&Secret::new("Bearer x")), ip(1)).await.is_err());
        });
    });
    assert!(recorder.handle().render().contains("\nsluicegate_auth_failures_total 2\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once_are_one_hash() {
    let setup = Setup::new(&[], &alice());
    setup.gate.close();
    let checks: Vec<_> = (0..200).map(|n| setup.spawn(PASSWORD, ip(n))).collect();
    until("all wait for the one hash", || setup.waiters() == 200).await;
    assert_eq!(setup.checks(), 1, "they take one place");
    setup.gate.open();
    for check in checks {
        assert_eq!(check.await.unwrap(), granted("alice"));
    }
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert_eq!(setup.gate.take_works(), [Work::Bcrypt(4)]);
    setup.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_shared_by_those_in_flight_alone() {
    let setup = Setup::new(&[], &alice());
    setup.gate.close();
    let checks: Vec<_> = (0..50).map(|_| setup.spawn("wrong", ip(1))).collect();
    until("all wait for the one hash", || setup.waiters() == 50).await;
    setup.gate.open();
    for check in checks {
        assert_eq!(reason(check.await.unwrap()), Reason::AuthFailed);
    }
    assert_eq!(setup.gate.hashes(), 1);
    assert_eq!(setup.guard().verifier.pool.failures(ip(1).into()), 1, "one hash is one failure");
    assert_eq!(reason(setup.check("alice", "wrong").await), Reason::AuthFailed);
    assert_eq!(setup.gate.hashes(), 2);
}

#[tokio::test]
async fn the_log_learns_the_name_of_a_configured_user_and_no_other() {
    let setup = Setup::new(&["dave:pw"], &alice());
    let named = |failure: Result<_, Failure>| failure.unwrap_err().user.map(|user| user.to_string());
    assert_eq!(named(setup.check("alice", "wrong").await), Some("alice".to_owned()));
    assert_eq!(named(setup.check("dave", "wrong").await), Some("dave".to_owned()));
    assert_eq!(named(setup.check("mallory", "wrong").await), None);
    assert_eq!(named(setup.auth.check(Some(&Secret::new("Bearer alice")), ip(1)).await), None);
    assert_eq!(named(setup.auth.check(None, ip(1)).await), None);
}

#[tokio::test]
async fn latin1_is_the_same_password_in_every_place_that_it_can_stand() {
    let latin1 = |bytes: &[u8]| Secret::new([b"Basic ", STANDARD.encode(bytes).as_bytes()].concat());
    let made = |password: &[u8]| bcrypt::hash(password, 4).unwrap();
    let users = format!("utf8:{}\nlatin1:{}\nj\u{f6}rg:{}\n", made("p\u{f6}".as_bytes()), made(b"p\xf6"), made(b"x"));
    let setup = Setup::new(&["dave:p\u{f6}"], &users);
    for sent in [&b"dave:p\xf6"[..], b"utf8:p\xf6", b"latin1:p\xf6", b"j\xf6rg:x"] {
        let user = setup.auth.check(Some(&latin1(sent)), ip(1)).await;
        assert!(user.is_ok(), "{}: {user:?}", sent.escape_ascii());
    }
    // Both encodings, tried in vain: the same work for every name.
    for sent in [&b"utf8:\xfc"[..], b"nobody:\xfc"] {
        setup.gate.take_works();
        assert_eq!(reason(setup.auth.check(Some(&latin1(sent)), ip(1)).await), Reason::AuthFailed);
        assert_eq!(setup.gate.take_works(), [Work::Bcrypt(4), Work::Bcrypt(4)]);
    }
}

#[tokio::test]
async fn whoever_is_refused_costs_the_same() {
    let users = format!("alice:{BCRYPT_4}\nbob:{BCRYPT_5}\ncarol:{SHA256}\n");
    let setup = Setup::new(&["dave:pw"], &users);
    let cost = |works: Vec<Work>| {
        works.into_iter().fold((0, 0), |(bcrypt, sha), work| match work {
            Work::Bcrypt(cost) => (bcrypt + (1 << cost), sha),
            Work::Sha256(rounds) | Work::Sha512(rounds) => (bcrypt, sha + rounds),
        })
    };
    for user in ["alice", "bob", "carol", "dave", "nobody", ""] {
        assert_eq!(reason(setup.check(user, "wrong").await), Reason::AuthFailed);
        assert_eq!(cost(setup.gate.take_works()), (32, 1000), "{user}");
    }
    let unreadable = Secret::new([b"Basic ", STANDARD.encode(b"\xfc:wrong").as_bytes()].concat());
    assert_eq!(reason(setup.auth.check(Some(&unreadable), ip(1)).await), Reason::AuthFailed);
    assert_eq!(cost(setup.gate.take_works()), (32, 1000), "a name that is not UTF-8");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guesser_waits_for_itself() {
    let setup = Setup::new(&[], &format!("{}bob:{BCRYPT_4}\n", alice()));
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    let busy = setup.busy().await;
    let guesses: Vec<_> = (0..WAITING_PER_SOURCE).map(|n| setup.spawn(&format!("guess {n}"), ip(1))).collect();
    until("all places are taken", || setup.checks() == busy.len() + WAITING_PER_SOURCE).await;
    let refusal = setup.check("alice", "one guess more").await.unwrap_err().refusal;
    assert_eq!(refusal.reason, Reason::AuthBusy);
    assert!(refusal.detail.contains("64 unverified credentials of this source"), "{refusal}");
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"), "verified before: does not wait");
    let other = tokio::spawn({
        let auth = Arc::clone(&setup.auth);
        async move { auth.check(Some(&header("bob", PASSWORD)), ip(2)).await }
    });
    until("the other source has a place", || setup.checks() == busy.len() + WAITING_PER_SOURCE + 1).await;
    setup.gate.open();
    assert_eq!(other.await.unwrap(), granted("bob"));
    for guess in guesses {
        assert_eq!(reason(guess.await.unwrap()), Reason::AuthFailed);
    }
    assert_eq!(setup.guard().verifier.pool.failures(ip(1).into()), BURST);
    assert_eq!(setup.check("bob", PASSWORD).await, granted("bob"), "nobody is locked out");
    setup.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_password_is_next_beside_sixteen_networks_of_guessers() {
    let setup = Setup::new(&[], &alice());
    setup.gate.is_cheap.store(true, Ordering::Relaxed);
    // Each has failed before, and has 80 guesses more.
    for network in 1..=16 {
        assert_eq!(reason(setup.spawn(&format!("first {network}"), ip(network)).await.unwrap()), Reason::AuthFailed);
    }
    let busy = setup.busy().await;
    let guess = |n: u32| setup.spawn(&format!("guess {n}"), ip(1 + (n % 16) as u8));
    let guesses: Vec<_> = (0..16 * 80).map(guess).collect();
    until("the queue is full", || setup.checks() == busy.len() + WAITING).await;
    let refused = guesses.len() - WAITING;
    let ended = || guesses.iter().filter(|guess| guess.is_finished()).count();
    until("those without a place are refused", || ended() == refused).await;
    let right = setup.spawn(PASSWORD, ip(100));
    until("a guess made room for it", || ended() == refused + 1).await;
    let before = setup.gate.passwords.lock().unwrap().len();
    setup.gate.open();
    assert_eq!(right.await.unwrap(), granted("alice"));
    let hashed = setup.gate.passwords.lock().unwrap().clone();
    let place = hashed[before..].iter().position(|password| password == PASSWORD.as_bytes());
    // One check may go by rotation before it.
    assert!(place.is_some_and(|place| place <= busy.len()), "{place:?}");
    guesses.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_fails_has_fewer_places_and_keeps_what_was_verified() {
    let setup = Setup::new(&[], &alice());
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    for n in 0..BURST {
        assert_eq!(reason(setup.check("alice", &format!("guess {n}")).await), Reason::AuthFailed, "still a 407");
    }
    let busy = setup.busy().await;
    let places = WAITING_PER_FAILING_SOURCE;
    let guesses: Vec<_> = (0..places).map(|n| setup.spawn(&format!("more {n}"), ip(1))).collect();
    until("its places are taken", || setup.checks() == busy.len() + places).await;
    let refusal = setup.check("alice", "one more").await.unwrap_err().refusal;
    assert_eq!(refusal.reason, Reason::AuthBusy);
    assert!(refusal.detail.contains("the limit after 16 failures"), "{refusal}");
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"), "verified before: does not wait");
    setup.gate.open();
    for guess in guesses {
        assert_eq!(reason(guess.await.unwrap()), Reason::AuthFailed);
    }
}

/// The client that a check is for has reset its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_whose_clients_have_left_is_never_hashed() {
    let setup = Setup::new(&[], &alice());
    let busy = setup.busy().await;
    let guesses: Vec<_> = (0..60).map(|n| setup.spawn(&format!("guess {}", n / 2), ip(1))).collect();
    until("two wait for each of thirty", || setup.waiters() == busy.len() + 60).await;
    assert_eq!(setup.checks(), busy.len() + 30);
    for guess in &guesses {
        guess.abort();
    }
    until("they have left the queue", || setup.checks() == busy.len()).await;
    setup.gate.open();
    for guess in busy {
        assert_eq!(reason(guess.await.unwrap()), Reason::AuthFailed);
    }
    setup.idle().await;
    assert_eq!(setup.gate.hashes(), 0, "none of them was hashed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_a_check_leaves_it_to_the_others() {
    let setup = Setup::new(&[], &alice());
    let busy = setup.busy().await;
    let [first, second] = [1, 2].map(|from| setup.spawn(PASSWORD, ip(from)));
    until("both wait", || setup.waiters() == busy.len() + 2).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    until("the second waits alone", || setup.waiters() == busy.len() + 1).await;
    setup.gate.open();
    assert_eq!(second.await.unwrap(), granted("alice"));
    for guess in busy {
        assert_eq!(reason(guess.await.unwrap()), Reason::AuthFailed);
    }
    assert_eq!(setup.gate.hashes(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_hash_that_all_left_is_not_lost() {
    let setup = Setup::new(&[], &alice());
    setup.gate.close();
    let only = setup.spawn(PASSWORD, ip(1));
    until("the hash runs", || setup.gate.hashes() == 1).await;
    only.abort();
    assert!(only.await.unwrap_err().is_cancelled());
    let again = setup.spawn(PASSWORD, ip(2));
    until("it is joined again", || setup.waiters() == 1).await;
    assert_eq!(setup.checks(), 1);
    setup.gate.open();
    assert_eq!(again.await.unwrap(), granted("alice"));
    setup.idle().await;
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert_eq!(setup.gate.hashes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_check_has_a_time_limit_and_a_right_password_is_known_afterwards() {
    let mut setup = Setup::new(&[], &alice());
    Arc::get_mut(&mut setup.auth).unwrap().guard.as_mut().unwrap().verifier.timeout = CHECK_TIMEOUT;
    setup.gate.close();
    let began = tokio::time::Instant::now();
    let refusal = setup.check("alice", PASSWORD).await.unwrap_err().refusal;
    assert_eq!(refusal, Refusal::new(Reason::AuthBusy, "the password check took longer than 20s; try again"));
    assert_eq!(began.elapsed().as_secs(), CHECK_TIMEOUT.as_secs());
    setup.gate.open();
    // The clock of the test does not wait for a thread.
    tokio::time::resume();
    until("the hash has ended", || setup.checks() == 0).await;
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert_eq!(setup.gate.hashes(), 1);
}

/// Another source's check had no room; the same credentials have their own share from elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_a_check_that_is_displaced_has_its_own_place() {
    let setup = Setup::new(&[], &alice());
    setup.gate.is_cheap.store(true, Ordering::Relaxed);
    let busy = setup.busy().await;
    // Of source 1, whose line is the longest once the queue is full, this is the newest.
    let guesses: Vec<_> = (0..WAITING_PER_SOURCE - 1).map(|n| setup.spawn(&format!("guess {n}"), ip(1))).collect();
    until("the guesses wait", || setup.checks() == busy.len() + guesses.len()).await;
    let first = setup.spawn(PASSWORD, ip(1));
    until("it waits last", || setup.checks() == busy.len() + WAITING_PER_SOURCE).await;
    let second = setup.spawn(PASSWORD, ip(2));
    until("another joins it", || setup.waiters() == busy.len() + WAITING_PER_SOURCE + 1).await;
    let others: Vec<_> = (0..WAITING - WAITING_PER_SOURCE)
        .map(|n| setup.spawn(&format!("other {n}"), IpAddr::from([10, 0, (n >> 8) as u8, n as u8])))
        .collect();
    until("the queue is full", || setup.checks() == busy.len() + WAITING).await;
    let newcomer = setup.spawn("newcomer", ip(3));
    let refusal = first.await.unwrap().unwrap_err().refusal;
    assert_eq!(refusal.reason, Reason::AuthBusy);
    setup.gate.open();
    assert_eq!(second.await.unwrap(), granted("alice"));
    drop((newcomer, others, guesses));
}

#[tokio::test]
async fn a_reload_takes_the_new_users_and_keeps_what_was_verified_against_the_same_hash() {
    let setup = Setup::new(&["dave:pw"], &alice());
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert!(!setup.auth.changed());
    setup.replace(&format!("bob:{BCRYPT_4}\n{}", alice()));
    assert!(setup.auth.changed());
    assert_eq!(setup.auth.reload(), Ok(3));
    assert!(!setup.auth.changed());
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert_eq!(setup.gate.take_works(), [Work::Bcrypt(4)], "her line is the same");
    assert_eq!(setup.check("bob", PASSWORD).await, granted("bob"));
    assert_eq!(setup.gate.take_works(), [Work::Bcrypt(4)], "his line has the hash of another's");
    // Another hash of the same password, and the same hash at another time.
    setup.replace(&format!("alice:{BCRYPT_5}\n"));
    assert_eq!(setup.auth.reload(), Ok(2));
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert_eq!(setup.gate.take_works(), [Work::Bcrypt(5)]);
    setup.replace(&format!("bob:{BCRYPT_4}\n"));
    assert_eq!(setup.auth.reload(), Ok(2));
    assert_eq!(reason(setup.check("alice", PASSWORD).await), Reason::AuthFailed);
    assert_eq!(setup.check("bob", PASSWORD).await, granted("bob"));
    assert_eq!(setup.gate.take_works(), [Work::Bcrypt(4); 2], "his line was gone in between");
    assert_eq!(setup.check("dave", "pw").await, granted("dave"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_that_ends_after_a_reload_counts_where_the_line_is_the_same() {
    let setup = Setup::new(&[], &alice());
    setup.gate.close();
    let before = setup.spawn(PASSWORD, ip(1));
    until("the hash runs", || setup.gate.hashes() == 1).await;
    assert_eq!(setup.auth.reload(), Ok(1));
    setup.gate.open();
    assert_eq!(before.await.unwrap(), granted("alice"));
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert_eq!(setup.gate.hashes(), 1);
}

#[tokio::test]
async fn a_file_about_no_user_keeps_the_users_from_before() {
    let setup = Setup::new(&["dave:pw"], &alice());
    let path = setup.dir.path().join("users");
    for (users, place, cause) in
        [(String::new(), ": ", "contains no user"), ("\nnot a users file".to_owned(), ":2: ", "no ':' in it")]
    {
        setup.replace(&users);
        assert!(setup.auth.changed());
        let error = setup.auth.reload().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}{place}", path.display())) && error.contains(cause), "{error}");
        assert!(!setup.auth.changed(), "one broken file is one error");
        assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    }
    fs::remove_file(&path).unwrap();
    assert!(!setup.auth.changed());
    assert!(setup.auth.changed());
    assert!(setup.auth.reload().is_err());
    assert_eq!((setup.auth.users(), setup.gate.hashes()), (2, 1), "what was verified is kept too");
    setup.replace(&alice());
    assert!(setup.auth.changed());
    assert_eq!(setup.auth.reload(), Ok(2));
}

#[tokio::test]
async fn a_bad_line_is_named_and_its_user_is_out_while_the_others_are_served() {
    let good = |name: &str| format!("{name}:{BCRYPT_4}\n");
    let setup = Setup::new(&["dave:pw"], &format!("{}{}", alice(), good("bob")));
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert!(setup.auth.bad_lines().is_empty());
    for (users, place, cause) in [
        (format!("{}alice:*{BCRYPT_4}\n", good("bob")), ":2: ", "plain passwords are not accepted"),
        (format!("{}{}alice:{BCRYPT_5}\n", alice(), good("bob")), ":3: ", "both lines are ignored"),
        (format!("{}{}", good("bob"), good("dave")), ":2: ", "'dave' is also defined by --user"),
    ] {
        setup.replace(&users);
        assert_eq!(setup.auth.reload(), Ok(2));
        let bad: Vec<_> = setup.auth.bad_lines().iter().map(ToString::to_string).collect();
        assert!(bad.len() == 1 && bad[0].contains(place) && bad[0].contains(cause), "{bad:?}");
        assert!(!bad[0].contains(BCRYPT_4), "{bad:?}");
        assert_eq!(reason(setup.check("alice", PASSWORD).await), Reason::AuthFailed, "not by the line from before");
        assert_eq!(setup.check("bob", PASSWORD).await, granted("bob"));
        assert_eq!(setup.check("dave", "pw").await, granted("dave"));
        assert_eq!(reason(setup.check("dave", PASSWORD).await), Reason::AuthFailed);
    }
    // Also the only line.
    setup.replace("bob:!\n");
    assert_eq!(setup.auth.reload(), Ok(1));
    assert_eq!(reason(setup.check("bob", PASSWORD).await), Reason::AuthFailed);
    setup.replace(&alice());
    assert_eq!((setup.auth.reload(), setup.auth.bad_lines()), (Ok(2), vec![]));
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
}

#[tokio::test]
async fn a_trusted_network_needs_no_credentials_and_has_those_that_are_sent_checked() {
    let setup = Setup::with_networks(&["dave:pw"], &alice(), &["192.0.2.0/28", "192.0.2.7/32"]);
    let from = |last: u8, header: Option<Secret>| {
        let auth = Arc::clone(&setup.auth);
        async move { auth.check(header.as_ref(), ip(last)).await }
    };
    assert_eq!(from(1, None).await, granted("192.0.2.0/28"));
    assert_eq!(from(7, None).await, granted("192.0.2.7/32"));
    assert_eq!(reason(from(16, None).await), Reason::AuthRequired);
    assert_eq!(from(1, Some(header("alice", PASSWORD))).await, granted("alice"));
    assert_eq!(from(1, Some(header("dave", "pw"))).await, granted("dave"));
    for (user, password) in [("alice", "wrong"), ("192.0.2.0/28", ""), ("192.0.2.0/28", "x")] {
        assert_eq!(reason(from(1, Some(header(user, password))).await), Reason::AuthFailed, "{user}");
    }
    assert_eq!(reason(from(1, Some(Secret::new("Bearer x"))).await), Reason::AuthFailed);
    assert!(setup.auth.knows("192.0.2.0/28") && !setup.auth.knows("192.0.2.0/29"));
    assert_eq!((setup.auth.users(), setup.auth.rates().len()), (2, 4));
}

#[test]
fn the_name_of_a_network_is_no_other_user() {
    let networks = vec![TrustedNetwork::new("10.0.0.0/8".parse().unwrap(), "10.0.0.0/8")];
    let users = Users { networks: networks.clone(), ..inline(vec![("10.0.0.0/8".to_owned(), Secret::new("x"))]) };
    let error = Authenticator::new(users).unwrap_err().to_string();
    assert!(error.contains("'10.0.0.0/8' is a network of --no-auth-from"), "{error}");
    let entry =
        Entry::new(Place::File("FILE".into(), Some(1)), "10.0.0.0/8".into(), &[BCRYPT_4], UserPolicy::default())
            .unwrap();
    let error = Authenticator::new(Users { networks, entries: vec![entry], ..Users::default() }).unwrap_err();
    assert!(error.to_string().contains("also defined by --no-auth-from"), "{error}");
    let of_ipv6 = |passwords: &[&str]| {
        Entry::new(Place::File("FILE".into(), Some(1)), "fd00::/8".into(), passwords, UserPolicy::default())
    };
    assert!(of_ipv6(&[]).is_ok() && of_ipv6(&[BCRYPT_4]).is_err());
    assert!(Entry::new(Place::File("FILE".into(), Some(1)), "a:b".into(), &[], UserPolicy::default()).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_from_before_a_reload_says_nothing_about_after() {
    let setup = Setup::new(&[], &alice());
    setup.gate.close();
    let before = setup.spawn(PASSWORD, ip(1));
    until("the hash runs", || setup.gate.hashes() == 1).await;
    setup.replace(&format!("bob:{BCRYPT_4}\n"));
    assert_eq!(setup.auth.reload(), Ok(1));
    let after = setup.spawn(PASSWORD, ip(1));
    until("the other waits on its own", || setup.waiters() > 0).await;
    setup.gate.open();
    assert_eq!(before.await.unwrap(), granted("alice"));
    assert_eq!(reason(after.await.unwrap()), Reason::AuthFailed);
}

#[tokio::test]
async fn a_hash_that_panics_is_answered_and_leaves_nothing_behind() {
    let mut setup = Setup::new(&[], &alice());
    let guard = Arc::get_mut(&mut setup.auth).unwrap().guard.as_mut().unwrap();
    guard.verifier = Verifier::with(Arc::new(|_: &Hash, _: &[u8]| panic!("on purpose")));
    guard.verifier.pool.start().unwrap();
    for _ in 0..2 {
        assert_eq!(reason(setup.check("alice", PASSWORD).await), Reason::AuthBusy);
        setup.idle().await;
    }
}

#[tokio::test]
async fn checks_that_wait_are_answered_when_the_pool_ends() {
    let mut setup = Setup::new(&[], &alice());
    let guard = Arc::get_mut(&mut setup.auth).unwrap().guard.as_mut().unwrap();
    guard.verifier = Verifier::new();
    let pool = std::mem::replace(&mut guard.verifier.pool, Pool::new());
    let table = guard.table();
    let (waiter, lead) = table.running_checks.join(guard.key.digest(&basic::parse(&header("alice", "x")).unwrap()));
    let place = pool.submit(ip(1).into(), Box::new(|| true), lead.unwrap());
    waiter.hold(place.unwrap());
    drop(pool);
    assert!(waiter.outcome().await.is_none());
}

#[test]
fn users_of_another_making_are_held_to_the_same_rules() {
    for (name, password) in [("", "hunter2"), ("a:b", "hunter2"), ("a", "")] {
        let error = Authenticator::new(inline(vec![(name.to_owned(), Secret::new(password))])).unwrap_err();
        assert!(error.to_string().starts_with("--user: the ") && !error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn the_line_end_of_a_hash_is_no_part_of_it() {
    let entry = |password: &str| {
        Entry::new(Place::File("FILE".into(), Some(1)), "ann".into(), &[password], UserPolicy::default())
    };
    for end in ["", "\n", "\r\n"] {
        assert!(
            entry(&format!("{BCRYPT_4}{end}")).is_ok() && entry(&format!("ann:{BCRYPT_4}{end}")).is_ok(),
            "{end:?}"
        );
    }
    assert!(entry(&format!("{BCRYPT_4}\n\n")).is_err());
}

#[test]
fn users_given_twice_are_refused() {
    let twice = vec![parse_user("bob:one").unwrap(), parse_user("bob:two").unwrap()];
    let error = Authenticator::new(inline(twice)).unwrap_err();
    assert!(error.to_string().contains("'bob' is listed twice"), "{error}");
    assert!(!format!("{error:?}").contains("two\""), "{error:?}");
}

#[tokio::test]
async fn debug_and_refusals_hide_passwords_and_hashes() {
    let setup = Setup::new(&["bob:hunter2"], &alice());
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert_eq!(format!("{:?}", setup.auth), "Authenticator { open: false, users: 2 }");
    let refusal = setup.check("alice", "hunter3").await.unwrap_err();
    assert!(!format!("{refusal:?}").contains("hunter"), "{refusal:?}");
}
