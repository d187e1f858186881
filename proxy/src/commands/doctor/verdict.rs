//! The engine for this host, and the verdict on it.

use serde::{Serialize, Serializer};

use super::finding::Finding;
use super::host::Host;
use super::refusal::{self, Refusal, Trials};
use crate::relay::{Engine, EngineUnavailable, Options, Relay};
use crate::sys::capabilities::with_only;

/// An engine and the result of its self-test. The names of the fields are the keys of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Tried {
    /// Its name.
    #[serde(serialize_with = "label")]
    pub(super) engine: Engine,
    /// It moved every byte of the self-test; `null` if it was not tried.
    pub(super) passed: Option<bool>,
    /// The error of the self-test.
    pub(super) error: Option<String>,
    /// The cause, as far as known.
    pub(super) cause: Option<String>,
    /// The remedies.
    pub(super) fix: Vec<String>,
}

fn label<S: Serializer>(engine: &Engine, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(engine.label())
}

/// Tries each engine as `serve` does at its start; none if the gateway cannot start.
pub(super) fn try_engines(host: &Host, options: &Options, trials: &Trials, may_start: bool) -> Vec<Tried> {
    if !may_start {
        return options.engines.iter().map(|engine| Tried::not(*engine)).collect();
    }
    // One by one: `serve` does not try the engines after the first working one.
    let alone = |engine: Engine| {
        let options = Options { engines: vec![engine], ..options.clone() };
        let start = || Relay::start(&options);
        match engine {
            // Programs needing capabilities are loaded at the start.
            Engine::Sockmap => start(),
            _ => with_only(options.capabilities(), start).unwrap_or_else(|_| start()),
        }
    };
    let unavailable = |engine| alone(engine).err().and_then(|mut unavailable| unavailable.pop());
    options.engines.iter().map(|engine| tried(host, *engine, unavailable(*engine).as_ref(), trials)).collect()
}

impl Tried {
    const fn not(engine: Engine) -> Self {
        Self { engine, passed: None, error: None, cause: None, fix: Vec::new() }
    }
}

fn tried(host: &Host, engine: Engine, unavailable: Option<&EngineUnavailable>, trials: &Trials) -> Tried {
    let Refusal { cause, fix } = match unavailable {
        Some(EngineUnavailable { hint: Some(hint), .. }) => Refusal::new(hint, Vec::new()),
        Some(EngineUnavailable { error, .. }) => refusal::of_engine(host, engine.label(), error, trials),
        None => Refusal::default(),
    };
    Tried {
        engine,
        passed: Some(unavailable.is_none()),
        error: unavailable.map(|unavailable| unavailable.error.to_string()),
        cause: Some(cause).filter(|cause| !cause.is_empty()),
        fix,
    }
}

/// Returns the engine `serve` would run.
pub(super) fn engine_of(tried: &[Tried]) -> Option<Engine> {
    tried.iter().find(|tried| tried.passed == Some(true)).map(|tried| tried.engine)
}

/// The overall result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// The first of the engines asked for runs, and no check degrades it: exit code 0.
    Best,
    /// The gateway runs, but with a lesser engine or with too little room: 1.
    Degraded,
    /// The gateway does not start: 2.
    CannotRun,
}

impl Outcome {
    /// The exit code.
    #[must_use]
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Best => 0,
            Self::Degraded => 1,
            Self::CannotRun => 2,
        }
    }
}

/// The outcome and the reasons for it.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The engine to run, if any.
    pub(super) engine: Option<Engine>,
    /// The result.
    pub(super) outcome: Outcome,
    /// Why not better; empty for the best.
    pub(super) because: Vec<String>,
}

impl Verdict {
    /// Judges the tried engines and the rows.
    pub(super) fn new(tried: &[Tried], rows: &[Finding]) -> Self {
        let before = tried.iter().take_while(|tried| tried.passed != Some(true));
        let mut because: Vec<String> = before.filter(|tried| tried.passed.is_some()).map(failure).collect();
        because.extend(rows.iter().filter(|row| row.degrades).map(|row| format!("{}: {}", row.check, row.found)));
        let engine = engine_of(tried);
        let outcome = match engine {
            None => Outcome::CannotRun,
            Some(_) if because.is_empty() => Outcome::Best,
            Some(_) => Outcome::Degraded,
        };
        Self { engine, outcome, because }
    }
}

fn failure(tried: &Tried) -> String {
    let error = tried.error.as_deref().unwrap_or_default();
    match &tried.cause {
        Some(cause) => format!("{} failed its self-test: {error} ({cause})", tried.engine),
        None => format!("{} failed its self-test: {error}", tried.engine),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Found, State};
    use super::super::tree::Tree;
    use super::*;
    use crate::relay::Component;

    fn tried(engine: Engine, error: Option<rustix::io::Errno>) -> Tried {
        let filter = Tree::new(&[("proc/self/status", "Seccomp:\t2\n")]);
        let refused = |errno: rustix::io::Errno| Err(std::io::Error::from(errno));
        let unavailable = |errno: rustix::io::Errno| EngineUnavailable {
            engine,
            part: Component::Splice,
            error: errno.into(),
            hint: None,
        };
        let trials = Trials { ring: error.map_or(Ok(()), refused), splice: error.map_or(Ok(()), refused) };
        super::tried(&filter.host(), engine, error.map(unavailable).as_ref(), &trials)
    }

    #[test]
    fn the_first_that_passed_runs_and_it_is_the_best_only_if_it_is_the_first() {
        let refused = Some(rustix::io::Errno::PERM);
        let both = [tried(Engine::Splice, None), tried(Engine::Copy, None)];
        let lesser = [tried(Engine::Splice, refused), tried(Engine::Copy, None)];
        let asked = [tried(Engine::Copy, None), tried(Engine::Splice, refused)];
        let none = [tried(Engine::Splice, refused)];
        for (tried, engine, outcome) in [
            (&both[..], Some(Engine::Splice), Outcome::Best),
            (&lesser, Some(Engine::Copy), Outcome::Degraded),
            (&asked, Some(Engine::Copy), Outcome::Best),
            (&none, None, Outcome::CannotRun),
        ] {
            let verdict = Verdict::new(tried, &[]);
            assert_eq!((verdict.engine, verdict.outcome), (engine, outcome), "{tried:?}");
            assert_eq!(verdict.because.is_empty(), outcome == Outcome::Best, "{verdict:?}");
        }
        let verdict = Verdict::new(&lesser, &[]);
        let said = "splice failed its self-test: Operation not permitted (os error 1) (the seccomp filter";
        assert!(verdict.because[0].starts_with(said), "{verdict:?}");
        let not_tried = Verdict::new(&[Tried::not(Engine::Splice)], &[]);
        assert_eq!((not_tried.outcome, not_tried.because.len()), (Outcome::CannotRun, 0));
    }

    #[test]
    fn advice_does_not_degrade_and_want_of_room_does() {
        let both = [tried(Engine::Splice, None)];
        let mut row = Finding::new("pipes", "many".into(), Found::ok("few").costs(State::Slow, "speed"));
        assert_eq!(Verdict::new(&both, std::slice::from_ref(&row)).outcome, Outcome::Best);
        row.degrades = true;
        let verdict = Verdict::new(&both, &[row]);
        assert_eq!((verdict.outcome, verdict.because.as_slice()), (Outcome::Degraded, &["pipes: few".to_owned()][..]));
        assert_eq!([Outcome::Best, Outcome::Degraded, Outcome::CannotRun].map(Outcome::code), [0, 1, 2]);
    }
}
