//! Answers to refused requests.

use crate::reason::{Refusal, Status};

/// Builds the answer to a refused request: the cause is in the reason phrase, since stunnel logs
/// only the status line, and once more in the body for other clients.
pub(super) fn answer(status: Status, refusal: &Refusal) -> String {
    let cause: String =
        refusal.detail.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect();
    let (code, title) = (status.0, status.title());
    let more = match code {
        407 => "Proxy-Authenticate: Basic realm=\"sluicegate\", charset=\"UTF-8\"\r\n",
        405 => "Allow: CONNECT\r\n",
        // A limit, and tunnels end and hashes are made all the time.
        503 => "Retry-After: 5\r\n",
        _ => "",
    };
    let length = cause.len() + 1;
    format!(
        "HTTP/1.1 {code} {title}: {cause}\r\n{more}Content-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{cause}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    #[test]
    fn every_answered_reason_has_one_line() {
        for &reason in Reason::ALL {
            let Some(status) = reason.status() else { continue };
            let text = answer(status, &Refusal::new(reason, "a\r\nX-Injected: \u{fc}"));
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.lines().next().unwrap().ends_with(": a??X-Injected: ?"), "{head}");
            let length: usize = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
            assert_eq!(length, body.len());
        }
    }

    #[test]
    fn a_challenge_comes_with_407_the_method_with_405_and_a_time_with_503() {
        let text = |reason: Reason| answer(reason.status().unwrap(), &Refusal::new(reason, "x"));
        assert!(
            text(Reason::AuthRequired)
                .contains("\r\nProxy-Authenticate: Basic realm=\"sluicegate\", charset=\"UTF-8\"\r\n")
        );
        assert!(text(Reason::NotConnect).contains("\r\nAllow: CONNECT\r\n"));
        assert!(text(Reason::UserLimit).contains("\r\nRetry-After: 5\r\n"));
        assert!(!text(Reason::Denied).contains("Authenticate"));
    }
}
