//! Tables of whole decisions, and what holds for every address.

use proptest::prelude::*;

use super::*;

/// This host, as far as these tests go.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified() || ["10.9.9.9", "fd00:9::9"].contains(&&*address.to_string())
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn policy(allow: &[&str], deny: &[&str]) -> Policy {
    let own = ["0.0.0.0:3128", "[::ffff:127.0.0.1]:9128"].map(|own| own.parse().unwrap());
    Policy::new(rules(allow), rules(deny), own.to_vec(), is_local)
}

fn target(text: &str) -> Target {
    Target::parse(text).unwrap()
}

/// The whole way of a target that resolves to `addresses`: the permitted ones, or the refusal.
fn decide(policy: &Policy, text: &str, addresses: &[&str]) -> Result<Vec<String>, Refusal> {
    let named = policy.check_name(target(text), None)?;
    let addresses = addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
    let permit = policy.check_addresses(named, addresses)?;
    Ok(permit.addresses().iter().map(ToString::to_string).collect())
}

#[track_caller]
fn permits(allow: &[&str], deny: &[&str], text: &str, addresses: &[&str], expected: &[&str]) {
    let outcome = decide(&policy(allow, deny), text, addresses).map_err(|refusal| refusal.to_string());
    assert_eq!(outcome, Ok(expected.iter().map(|s| (*s).to_owned()).collect()), "{allow:?} {deny:?} {text}");
}

#[track_caller]
fn refuses(allow: &[&str], deny: &[&str], text: &str, addresses: &[&str], detail: &str) {
    let refusal = decide(&policy(allow, deny), text, addresses).expect_err(text);
    assert_eq!((refusal.reason, &*refusal.detail), (Reason::Denied, detail), "{allow:?} {deny:?} {text}");
}

/// Refused before any look-up.
#[track_caller]
fn refuses_name(allow: &[&str], deny: &[&str], text: &str, detail: &str) {
    let refusal = policy(allow, deny).check_name(target(text), None).expect_err(text);
    assert_eq!((refusal.reason, &*refusal.detail), (Reason::Denied, detail), "{allow:?} {deny:?} {text}");
}

#[test]
fn without_rules_the_cluster_ports_are_open() {
    permits(&[], &[], "api.example:443", &["93.184.216.34"], &["93.184.216.34:443"]);
    permits(&[], &[], "api.example:6443", &["10.1.2.3", "fd00::1"], &["10.1.2.3:6443", "[fd00::1]:6443"]);
    permits(&[], &[], "10.1.2.3:443", &["10.1.2.3"], &["10.1.2.3:443"]);
    refuses_name(&[], &[], "api.example:22", "no --allow rule matches api.example:22 (default: *:443, *:6443)");
    refuses_name(&[], &[], "[fd00::1]:80", "no --allow rule matches [fd00::1]:80 (default: *:443, *:6443)");
    permits(&[], &["*.evil.example:*"], "api.example:443", &["10.1.2.3"], &["10.1.2.3:443"]);
}

#[test]
fn names_are_judged_before_any_look_up() {
    let allow = ["*.apps.example:443", "10.0.0.0/8:8443"];
    refuses_name(&allow, &[], "apps.example:443", "no --allow rule matches apps.example:443");
    refuses_name(&allow, &[], "x.apps.example:80", "no --allow rule matches x.apps.example:80");
    refuses_name(&["*:*"], &["*.evil.example:*"], "a.evil.example:443", "denied by rule --deny *.evil.example:*");
    refuses_name(&["*:*"], &["*:22"], "a.example:22", "denied by rule --deny *:22");
    refuses_name(&["*:*"], &["10.0.0.0/8:22"], "10.1.1.1:22", "denied by rule --deny 10.0.0.0/8:22");
    // A rule on addresses may still permit what the name does not.
    permits(&allow, &[], "other.example:8443", &["10.1.1.1", "11.1.1.1"], &["10.1.1.1:8443"]);
    let detail = "no --allow rule matches other.example:8443 (resolved to 11.1.1.1)";
    refuses(&allow, &[], "other.example:8443", &["11.1.1.1"], detail);
}

#[test]
fn deny_wins_and_takes_addresses_away() {
    let deny = ["10.0.0.0/8:*"];
    permits(&[], &deny, "api.example:443", &["10.1.1.1", "192.168.0.1", "10.2.2.2"], &["192.168.0.1:443"]);
    let detail = "denied by rule --deny 10.0.0.0/8:* (resolved to 10.1.1.1 and 1 more)";
    refuses(&["api.example:443"], &deny, "api.example:443", &["10.1.1.1", "10.2.2.2"], detail);
    refuses(&["10.1.1.1:443"], &deny, "10.1.1.1:443", &["10.1.1.1"], "denied by rule --deny 10.0.0.0/8:*");
    permits(&["*:*"], &["10.0.0.0/8:22"], "10.1.1.1:443", &["10.1.1.1"], &["10.1.1.1:443"]);
    for form in ["::ffff:10.1.1.1", "64:ff9b::10.1.1.1", "2002:a01:101::1", "64:ff9b:1::10.1.1.1"] {
        let detail = format!(
            "denied by rule --deny 10.0.0.0/8:* (resolved to {})",
            form.parse::<IpAddr>().unwrap().to_canonical()
        );
        refuses(&["*:*", "[::]/0:*"], &deny, "api.example:443", &[form], &detail);
    }
}

#[test]
fn special_addresses_need_a_rule_that_names_them() {
    let detail = "127.0.0.1 is loopback: needs a rule that names it, as --allow 127.0.0.0/8:*";
    refuses(&[], &[], "127.0.0.1:443", &["127.0.0.1"], detail);
    for wide in ["*:*", "localhost:*", "0.0.0.0/0:*", "126.0.0.0/7:*", "[::ffff:0.0.0.0]/96:*"] {
        refuses(&[wide], &[], "127.0.0.1:443", &["127.0.0.1"], detail);
    }
    refuses(&["localhost:*"], &[], "localhost:443", &["127.0.0.1"], &format!("{detail} (resolved to 127.0.0.1)"));
    for narrow in ["127.0.0.0/8:443", "127.0.0.1:*", "127.0.0.0/24:1-500", "[::ffff:127.0.0.1]:443"] {
        permits(&[narrow], &[], "127.0.0.1:443", &["127.0.0.1"], &["127.0.0.1:443"]);
        permits(&["*:*", narrow], &[], "localhost:443", &["::ffff:127.0.0.1", "::1"], &["127.0.0.1:443"]);
    }
    refuses(&["*:*", "127.0.0.1:80"], &[], "127.0.0.1:443", &["127.0.0.1"], detail);
    refuses(&["127.0.0.0/8:*"], &["127.0.0.1:*"], "127.0.0.1:443", &["127.0.0.1"], "denied by rule --deny 127.0.0.1:*");
    permits(&["[::1]:443"], &[], "[::1]:443", &["::1"], &["[::1]:443"]);
    // The metadata service lies on the link, but a rule for the link does not mean it.
    let metadata =
        "169.254.169.254 is a cloud metadata service: needs a rule that names it, as --allow 169.254.169.254:*";
    refuses(&["169.254.0.0/16:*"], &[], "169.254.169.254:80", &["169.254.169.254"], metadata);
    permits(&["169.254.0.0/16:*"], &[], "169.254.1.1:80", &["169.254.1.1"], &["169.254.1.1:80"]);
    permits(&["169.254.169.254:80"], &[], "169.254.169.254:80", &["169.254.169.254"], &["169.254.169.254:80"]);
}

#[test]
fn an_ipv4_address_inside_an_ipv6_one_counts() {
    let detail = "64:ff9b::7f00:1 is loopback: needs a rule that names it, as --allow [64:ff9b::7f00:1]:*";
    refuses(&["*:*", "127.0.0.0/8:*", "[64:ff9b::]/96:*"], &[], "[64:ff9b::7f00:1]:443", &["64:ff9b::7f00:1"], detail);
    permits(&["[64:ff9b::7f00:1]:443"], &[], "[64:ff9b::7f00:1]:443", &["64:ff9b::7f00:1"], &["[64:ff9b::7f00:1]:443"]);
    permits(&[], &[], "api.example:443", &["64:ff9b::1.1.1.1"], &["[64:ff9b::101:101]:443"]);
}

#[test]
fn own_listeners_are_refused_whatever_the_rules_say() {
    let allow = ["*:*", "127.0.0.0/8:*", "0.0.0.0/8:*", "[::1]:*", "[::]:*", "[64:ff9b::a09:909]:*"];
    let table = [
        ("127.0.0.1", 9_128),
        ("127.0.0.1", 3_128),
        ("127.9.9.9", 3_128),
        ("0.0.0.0", 3_128),
        ("10.9.9.9", 3_128),
        ("10.9.9.9", 9_128),
        ("::1", 3_128),
        ("::", 9_128),
        ("fd00:9::9", 3_128),
        ("64:ff9b::a09:909", 3_128),
    ];
    for (address, port) in table {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        let detail = format!("{address} is a listener of this gateway: no rule permits a loop");
        refuses(&allow, &[], &address.to_string(), &[&address.ip().to_string()], &detail);
        let resolved = format!("{detail} (resolved to {})", address.ip());
        refuses(&allow, &[], &format!("me.example:{port}"), &[&address.ip().to_string()], &resolved);
    }
    permits(&allow, &[], "127.0.0.1:3129", &["127.0.0.1"], &["127.0.0.1:3129"]);
    permits(&allow, &[], "10.9.9.8:3128", &["10.9.9.8"], &["10.9.9.8:3128"]);
}

#[test]
fn a_name_without_addresses_is_not_permitted() {
    let refusal = decide(&policy(&[], &[]), "api.example:443", &[]).unwrap_err();
    assert_eq!((refusal.reason, &*refusal.detail), (Reason::ResolveFailed, "api.example:443 has no address"));
}

#[test]
fn a_verdict_names_the_deciding_rule() {
    let judge = |policy: &Policy, text: &str, address: &str| {
        policy.judge(&target(text), SocketAddr::new(address.parse().unwrap(), 0), None).to_string()
    };
    assert_eq!(judge(&policy(&[], &[]), "a.example:443", "10.0.0.1"), "permitted by default allow *:443");
    let ruled = policy(&["b.example:443", "10.0.0.0/8:443"], &["10.2.0.0/16:*"]);
    assert_eq!(judge(&ruled, "b.example:443", "1.1.1.1"), "permitted by --allow b.example:443");
    assert_eq!(judge(&ruled, "a.example:443", "10.0.0.1"), "permitted by --allow 10.0.0.0/8:443");
    assert_eq!(judge(&ruled, "b.example:443", "10.2.0.1"), "refused: denied by rule --deny 10.2.0.0/16:*");
    assert_eq!(judge(&ruled, "c.example:443", "1.1.1.1"), "refused: no --allow rule matches c.example:443");
}

#[test]
fn a_permit_says_what_it_rests_on() {
    let policy = policy(&["10.0.0.0/8:443", "api.example:443"], &[]);
    let named = policy.check_name(target("api.example:443"), None).unwrap();
    assert_eq!(named.target(), &target("api.example:443"));
    let addresses = ["1.1.1.1:1", "10.0.0.1:2"].map(|address| address.parse().unwrap()).to_vec();
    let permit = policy.check_addresses(named, addresses).unwrap();
    assert_eq!(permit.rule(), "--allow api.example:443");
    assert_eq!(permit.target(), &target("api.example:443"));
    assert_eq!(permit.addresses(), ["1.1.1.1:443", "10.0.0.1:443"].map(|address| address.parse().unwrap()));
}

/// Addresses of which many are special, in one way or another.
fn any_address() -> impl Strategy<Value = IpAddr> {
    let v4 = prop_oneof![
        any::<u32>(),
        any::<u32>().prop_map(|n| (n % (1 << 24)) | (127 << 24)),
        any::<u16>().prop_map(|n| u32::from(n) | (0xa9fe << 16)),
        Just(0xa9fe_a9fe),
    ];
    (v4, any::<u128>(), 0..8).prop_map(|(v4, noise, form)| {
        let v4_bits = u128::from(v4);
        let v6 = |bits: u128| IpAddr::from(bits.to_be_bytes());
        match form {
            0 => v6(noise),
            1 => v6(v4_bits),
            2 => v6(0xffff << 32 | v4_bits),
            3 => v6(0x0064_ff9b << 96 | v4_bits),
            4 => v6(0x0064_ff9b_0001 << 80 | v4_bits),
            5 => v6(0x2002 << 112 | v4_bits << 80 | noise >> 64),
            6 => v6(0x2001 << 112 | v4_bits << 64 | noise >> 96),
            _ => IpAddr::from(v4.to_be_bytes()),
        }
    })
}

proptest! {
    #[test]
    fn no_wide_rule_opens_a_special_address(address in any_address(), port in 1..9_000_u16) {
        let address = address.to_canonical();
        let target = Target { host: Host::Name("a.example".into()), port, absolute: false };
        let wide = policy(&["*:*", "a.example:*", "*.example:*", "0.0.0.0/0:*", "[::]/0:*"], &[]);
        let named = wide.check_name(target.clone(), None).unwrap();
        let outcome = wide.check_addresses(named, vec![SocketAddr::new(address, port)]);
        prop_assert!(outcome.is_err() || special::special(address).is_none(), "{address}");
        let ordinary = special::special(address).is_none() && !is_local(address);
        prop_assert!(outcome.is_ok() || !ordinary, "{address}");
    }

    #[test]
    fn a_special_address_is_opened_by_its_own_rule(address in any_address(), port in 4_000..9_000_u16) {
        let address = address.to_canonical();
        let rule = format!("{}:{port}", rule::shown(address.into()));
        let policy = policy(&[&rule], &[]);
        let named = policy.check_name(Target { host: Host::Address(address), port, absolute: false }, None).unwrap();
        let permit = policy.check_addresses(named, vec![SocketAddr::new(address, port)]).unwrap();
        prop_assert_eq!(permit.addresses(), [SocketAddr::new(address, port)]);
    }

    #[test]
    fn deny_always_wins(address in any_address(), port in 1..9_000_u16, by_name: bool) {
        let shown = rule::shown(address.to_canonical().into());
        let own = format!("{shown}:*");
        let deny = if by_name { "a.example:1-65535".to_owned() } else { format!("{shown}:{port}") };
        let policy = policy(&["*:*", "a.example:*", &own], &[&deny]);
        let target = Target { host: Host::Name("a.example".into()), port, absolute: false };
        let verdict = policy.judge(&target, SocketAddr::new(address, port), None);
        let cause = format!("denied by rule --deny {deny}");
        prop_assert_eq!(verdict, Verdict::Refused { cause });
    }

    #[test]
    fn every_refusal_fits_a_reason_phrase(address in any_address(), port in 1..9_000_u16) {
        let target = Target { host: Host::Name("a.example".into()), port, absolute: false };
        for policy in [policy(&[], &[]), policy(&["1.1.1.1:1"], &["10.0.0.0/8:*"])] {
            let shown = policy.judge(&target, SocketAddr::new(address, port), None).to_string();
            prop_assert!(shown.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) && shown.len() < 700, "{shown}");
        }
    }
}
