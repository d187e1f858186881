//! The whole of it: what is hashed, for whom, how often, and what a reload leaves.

use std::fs;
use std::sync::Condvar;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use metrics_exporter_prometheus::PrometheusBuilder;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::hash::{Hash, Work};
use super::turns::{RUNNING_PER_SOURCE, WAITING_PER_SOURCE};
use super::*;

const PASSWORD: &str = "s3cret:with:@/%ü";
/// The hash of `PASSWORD`, by `htpasswd -nbB -C 4`.
const BCRYPT_4: &str = "$2y$04$s3nEBtS7Qzw9ctn.NRIzs.IQt8.B7mCW1RaVx4LMDuSuTuhtnSTGa";
/// The same by `mkpasswd -m bcrypt` with cost 5, and by `htpasswd -nb2 -r 1000`.
const BCRYPT_5: &str = "$2b$05$j4ySaw5nneJWMXCHNtxGROS.Rs/GJei.mnotUGUJeEqQeOj8O2R76";
const SHA256: &str = "$5$rounds=1000$xfILwX1TuP.3a311$bKAHqMA4Tcs7SgITqY6R/X7FiVU1FzFO.EF/LlMbdO9";
const DEADLINE: Duration = Duration::from_secs(60);

/// Stands in for the hashing: counts it, and holds it up while closed.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    works: Mutex<Vec<Work>>,
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
        let closed = self.closed.lock().unwrap();
        drop(self.opened.wait_timeout_while(closed, DEADLINE, |closed| *closed).unwrap());
        hash.matches(password)
    }
}

struct Setup {
    dir: TempDir,
    gate: Arc<Gate>,
    auth: Arc<Authenticator>,
}

impl Setup {
    fn new(inline: &[&str], users: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("users"), users).unwrap();
        let gate = Arc::new(Gate::default());
        let verifier = Verifier::with(Arc::new({
            let gate = Arc::clone(&gate);
            move |hash: &Hash, password: &[u8]| gate.matches(hash, password)
        }));
        let inline = inline.iter().map(|user| parse_user(user).unwrap()).collect();
        let guard = Guard::new(inline, Some(dir.path().join("users")), vec![], verifier).unwrap();
        Self { dir, gate, auth: Arc::new(Authenticator { guard: Some(guard) }) }
    }

    fn guard(&self) -> &Guard {
        self.auth.guard.as_ref().unwrap()
    }

    /// Puts another file in the place of the users file.
    fn replace(&self, users: &str) {
        fs::write(self.dir.path().join("new"), users).unwrap();
        fs::rename(self.dir.path().join("new"), self.dir.path().join("users")).unwrap();
    }

    async fn check(&self, user: &str, password: &str) -> Result<Option<User>, Refusal> {
        self.auth.check(Some(&header(user, password)), ip(1)).await
    }

    fn spawn(&self, password: &str, source: IpAddr) -> JoinHandle<Result<Option<User>, Refusal>> {
        let (auth, header) = (Arc::clone(&self.auth), header("alice", password));
        tokio::spawn(async move { auth.check(Some(&header), source).await })
    }

    fn passengers(&self) -> usize {
        self.guard().table().flights.passengers()
    }

    fn inside(&self) -> usize {
        self.guard().verifier.turns.inside()
    }
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

fn granted(name: &str) -> Result<Option<User>, Refusal> {
    Ok(Some(User { name: name.into(), grant: None }))
}

fn reason<T: fmt::Debug>(result: Result<T, Refusal>) -> Reason {
    result.expect_err("a refusal").reason
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
    let error = Authenticator::new(vec![], None, vec![]).unwrap_err().to_string();
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
    let auth = Authenticator::new(vec![parse_user("bob:pw").unwrap()], None, vec![]).unwrap();
    assert_eq!(auth.check(Some(&header("bob", "pw")), ip(1)).await, granted("bob"));
    assert_eq!(reason(auth.check(Some(&header("bob", "px")), ip(1)).await), Reason::AuthFailed);
    assert_eq!((auth.users(), auth.reload(), auth.changed()), (1, Ok(1), false));
}

#[test]
fn wrong_credentials_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
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
    until("all wait for the one hash", || setup.passengers() == 201).await;
    assert_eq!(setup.inside(), 1, "they take one place");
    setup.gate.open();
    for check in checks {
        assert_eq!(check.await.unwrap(), granted("alice"));
    }
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert_eq!(setup.gate.take_works(), [Work::Bcrypt(4)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_shared_by_those_in_flight_alone() {
    let setup = Setup::new(&[], &alice());
    setup.gate.close();
    let checks: Vec<_> = (0..50).map(|_| setup.spawn("wrong", ip(1))).collect();
    until("all wait for the one hash", || setup.passengers() == 51).await;
    setup.gate.open();
    for check in checks {
        assert_eq!(reason(check.await.unwrap()), Reason::AuthFailed);
    }
    assert_eq!(setup.gate.hashes(), 1);
    until("the hash has let go", || setup.passengers() == 0).await;
    assert_eq!(reason(setup.check("alice", "wrong").await), Reason::AuthFailed);
    assert_eq!(setup.gate.hashes(), 2);
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
async fn a_guesser_waits_for_himself() {
    let setup = Setup::new(&[], &format!("{}bob:{BCRYPT_4}\n", alice()));
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    setup.gate.close();
    let places = RUNNING_PER_SOURCE + WAITING_PER_SOURCE;
    let guesses: Vec<_> = (0..places).map(|n| setup.spawn(&format!("guess {n}"), ip(1))).collect();
    until("all places are taken", || setup.inside() == places).await;
    let refusal = setup.check("alice", "one guess more").await.unwrap_err();
    assert_eq!(refusal.reason, Reason::AuthBusy);
    assert!(refusal.detail.contains("64 unverified credentials of this source"), "{refusal}");
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"), "verified before: does not wait");
    let other = tokio::spawn({
        let auth = Arc::clone(&setup.auth);
        async move { auth.check(Some(&header("bob", PASSWORD)), ip(2)).await }
    });
    until("the other source has a place", || setup.inside() == places + 1).await;
    setup.gate.open();
    assert_eq!(other.await.unwrap(), granted("bob"));
    for guess in guesses {
        assert_eq!(reason(guess.await.unwrap()), Reason::AuthFailed);
    }
    assert_eq!(setup.check("bob", PASSWORD).await, granted("bob"), "nobody is locked out");
    until("all places are free", || setup.inside() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_a_running_hash_leaves_it_to_the_others() {
    let setup = Setup::new(&[], &alice());
    setup.gate.close();
    let first = setup.spawn(PASSWORD, ip(1));
    until("the hash runs", || setup.gate.hashes() == 1).await;
    let second = setup.spawn(PASSWORD, ip(2));
    until("the second waits", || setup.passengers() == 3).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(setup.passengers(), 2);
    setup.gate.open();
    assert_eq!(second.await.unwrap(), granted("alice"));
    assert_eq!(setup.gate.hashes(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_that_all_left_still_fills_its_place_and_is_not_lost() {
    let setup = Setup::new(&[], &alice());
    setup.gate.close();
    let only = setup.spawn(PASSWORD, ip(1));
    until("the hash runs", || setup.gate.hashes() == 1).await;
    only.abort();
    assert!(only.await.unwrap_err().is_cancelled());
    assert_eq!((setup.inside(), setup.passengers()), (1, 1));
    setup.gate.open();
    until("the hash is done", || setup.inside() == 0 && setup.passengers() == 0).await;
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert_eq!(setup.gate.hashes(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_before_the_hash_hands_his_place_on() {
    let setup = Setup::new(&[], &alice());
    setup.gate.close();
    let cores = setup.guard().verifier.cores();
    let guesses: Vec<_> = (0..cores).map(|n| setup.spawn(&format!("guess {n}"), ip(9))).collect();
    until("all cores are busy", || setup.gate.hashes() == cores).await;
    let first = setup.spawn(PASSWORD, ip(1));
    until("the first waits for a core", || setup.inside() == cores + 1).await;
    let second = setup.spawn(PASSWORD, ip(2));
    let passengers = 2 * cores + 2;
    until("the second waits with it", || setup.passengers() == passengers).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    until("the second waits in its own right", || setup.inside() == cores + 1).await;
    // A third leaves with nobody behind it: nothing of it is left.
    let third = setup.spawn("third", ip(3));
    until("the third waits for a core", || setup.inside() == cores + 2).await;
    third.abort();
    assert!(third.await.unwrap_err().is_cancelled());
    assert_eq!((setup.inside(), setup.passengers()), (cores + 1, passengers - 1));
    setup.gate.open();
    assert_eq!(second.await.unwrap(), granted("alice"));
    for guess in guesses {
        assert_eq!(reason(guess.await.unwrap()), Reason::AuthFailed);
    }
    assert_eq!(setup.gate.hashes(), cores + 1);
}

#[tokio::test]
async fn a_reload_takes_the_new_users_and_forgets_what_was_verified() {
    let setup = Setup::new(&["dave:pw"], &alice());
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert!(!setup.auth.changed());
    setup.replace(&format!("{}bob:{BCRYPT_4}\n", alice()));
    assert!(setup.auth.changed());
    assert_eq!(setup.auth.reload(), Ok(3));
    assert!(!setup.auth.changed());
    assert_eq!(setup.gate.hashes(), 1);
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert_eq!(setup.gate.hashes(), 2, "hashed anew");
    setup.replace(&format!("bob:{BCRYPT_4}\n"));
    assert_eq!(setup.auth.reload(), Ok(2));
    assert_eq!(reason(setup.check("alice", PASSWORD).await), Reason::AuthFailed);
    assert_eq!(setup.check("dave", "pw").await, granted("dave"));
}

#[tokio::test]
async fn a_broken_file_keeps_the_users_from_before() {
    let setup = Setup::new(&["dave:pw"], &alice());
    let path = setup.dir.path().join("users");
    for (users, place, cause) in [
        (format!("{}bob:plain\n", alice()), ":2: ", "plain passwords are not accepted"),
        (format!("{}\ndave:{BCRYPT_4}\n", alice()), ":3: ", "'dave' is given by --user too"),
        (String::new(), ": ", "holds no user"),
    ] {
        setup.replace(&users);
        let error = setup.auth.reload().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}{place}", path.display())) && error.contains(cause), "{error}");
        assert!(!setup.auth.changed(), "one broken file is one error");
        assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    }
    fs::remove_file(&path).unwrap();
    assert!(setup.auth.changed());
    assert!(setup.auth.reload().is_err());
    assert_eq!((setup.auth.users(), setup.gate.hashes()), (2, 1), "what was verified is kept too");
    setup.replace(&alice());
    assert!(setup.auth.changed());
    assert_eq!(setup.auth.reload(), Ok(2));
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
    until("the other waits on its own", || setup.passengers() > 0).await;
    setup.gate.open();
    assert_eq!(before.await.unwrap(), granted("alice"));
    assert_eq!(reason(after.await.unwrap()), Reason::AuthFailed);
}

#[tokio::test]
async fn a_hash_that_panics_is_answered_and_leaves_nothing_behind() {
    let mut setup = Setup::new(&[], &alice());
    let guard = Arc::get_mut(&mut setup.auth).unwrap().guard.as_mut().unwrap();
    guard.verifier = Verifier::with(Arc::new(|_: &Hash, _: &[u8]| panic!("on purpose")));
    for _ in 0..2 {
        assert_eq!(reason(setup.check("alice", PASSWORD).await), Reason::AuthBusy);
        until("all is given back", || setup.inside() == 0 && setup.passengers() == 0).await;
    }
}

#[test]
fn users_of_another_making_are_held_to_the_same_rules() {
    for (name, password) in [("", "hunter2"), ("a:b", "hunter2"), ("a", "")] {
        let error = Authenticator::new(vec![(name.to_owned(), Secret::new(password))], None, vec![]).unwrap_err();
        assert!(error.to_string().starts_with("--user: the ") && !error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn users_given_twice_are_refused() {
    let twice = vec![parse_user("bob:one").unwrap(), parse_user("bob:two").unwrap()];
    let error = Authenticator::new(twice, None, vec![]).unwrap_err();
    assert!(error.to_string().contains("'bob' is given twice"), "{error}");
    assert!(!format!("{error:?}").contains("two\""), "{error:?}");
}

#[tokio::test]
async fn debug_and_refusals_hide_passwords_and_hashes() {
    let setup = Setup::new(&["bob:hunter2"], &alice());
    assert_eq!(setup.check("alice", PASSWORD).await, granted("alice"));
    assert_eq!(format!("{:?}", setup.auth), "Authenticator { open: false, users: 2 }");
    let refusal = setup.check("alice", "hunter3").await.unwrap_err();
    assert!(!format!("{refusal} {refusal:?}").contains("hunter"), "{refusal:?}");
}
