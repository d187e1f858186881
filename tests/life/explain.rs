//! `explain`: the answer a client would get, in advance, with the matching rule and the addresses.

use crate::support::process::sluicegate;

#[test]
fn explain_names_the_rule_and_the_addresses_that_would_be_dialled() {
    for (arguments, code, out, err) in [
        (
            &["--user", "bob", "--from", "10.9.8.7", "10.1.2.3:443"][..],
            0,
            "bob from 10.9.8.7 requests 10.1.2.3:443",
            "",
        ),
        (&["10.1.2.3:443"], 0, "10.1.2.3:443  permitted by default allow *:443", ""),
        (&["--allow", "127.0.0.0/8:*", "127.0.0.1:80"], 0, "permitted; would connect to 127.0.0.1:80", ""),
        (&["10.1.2.3:22"], 1, "", "no --allow rule matches 10.1.2.3:22 (default: *:443, *:6443)"),
        (&["--deny", "10.0.0.0/8:*", "10.1.2.3:443"], 1, "", "denied by rule --deny 10.0.0.0/8:*"),
        (&["169.254.169.254:443"], 1, "", "needs a rule that names it"),
        (&["localhost:443"], 1, "is loopback: needs a rule that names it", "no address is permitted"),
        (&["--allow", "127.0.0.0/8:*", "127.0.0.1:9128"], 1, "", "is a listener of this gateway"),
        (&["nx.invalid:443"], 1, "", "permitted by name, but nx.invalid does not resolve"),
        (&["2130706433:443"], 2, "", "2130706433:443: "),
        (&["no-port"], 2, "", "no-port: "),
    ] {
        let outcome = sluicegate(&[&["explain"], arguments].concat(), &[]);
        assert_eq!(outcome.code, Some(code), "{arguments:?}: {outcome:?}");
        assert!(outcome.out.contains(out) && outcome.err.contains(err), "{arguments:?}: {outcome:?}");
    }
}
