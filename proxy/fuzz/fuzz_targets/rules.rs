//! Any text as a target, a rule, a rate or a rule of the PROXY protocol: no panic, and a parsed
//! value equals its displayed form, parsed again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::policy::Rule;
use sluicegate::proxy_protocol::ProxyProtocolRule;
use sluicegate::rate::Rate;
use sluicegate::target::{Host, Target};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(target) = Target::parse(text) {
        assert_eq!(Target::parse_authority(text, 443).as_ref(), Ok(&target));
        // The final dot of a name is not displayed.
        assert_eq!(Target::parse(&target.to_string()), Ok(Target { absolute: false, ..target }));
    }
    if let Ok(host) = Host::parse(text) {
        assert_eq!(Host::parse(&host.to_string()), Ok(host));
    }
    if let Ok(rule) = text.parse::<Rule>() {
        let shown = rule.to_string();
        let again = shown.parse::<Rule>().unwrap_or_else(|error| panic!("{text} is shown as {shown}: {error}"));
        assert_eq!(again.to_string(), shown);
    }
    if let Ok(rate) = text.parse::<Rate>() {
        assert!(rate.bytes() > 0);
        assert_eq!(rate.to_string().parse::<Rate>().map(|rate| rate.to_string()), Ok(rate.to_string()));
    }
    let _ = text.parse::<ProxyProtocolRule>();
});
