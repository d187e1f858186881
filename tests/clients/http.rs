//! Document fetchers.

use super::tls::{DOCUMENT, TlsOrigin};
use super::user::{NAME, PASSWORD, command, gateway, succeed, url, went_through};
use crate::support::Origin;
use crate::support::process::{program, run};

const PLAIN: &str = "a document in the clear, through the gateway\n";

#[test]
fn curl_over_http_1_1_and_1_0() {
    let Some(curl) = program("curl", "curl") else { return };
    for version in ["--proxy", "--proxy1.0"] {
        let gateway = gateway();
        let origin = Origin::http(PLAIN);
        let mut fetch = command(curl);
        fetch.args(["--silent", "--show-error", "--proxytunnel", version, &gateway.address.to_string()]);
        fetch.args(["--proxy-user", &format!("{NAME}:{PASSWORD}"), &format!("http://{}/", origin.address)]);
        assert_eq!(succeed(fetch, b"").out, PLAIN, "{version}");
        went_through(&gateway, origin.address);
    }
}

#[test]
fn curl_to_a_tls_origin() {
    let Some(curl) = program("curl", "curl") else { return };
    let Some(origin) = TlsOrigin::start() else { return };
    let gateway = gateway();
    let mut fetch = command(curl);
    fetch.args(["--silent", "--show-error", "--proxy", &url(&gateway), &origin.url()]);
    fetch.arg("--cacert").arg(origin.certificate());
    assert_eq!(succeed(fetch, b"").out, DOCUMENT);
    went_through(&gateway, origin.address);
}

#[test]
fn curl_reads_why_it_was_refused() {
    let Some(curl) = program("curl", "curl") else { return };
    let gateway = gateway();
    let mut fetch = command(curl);
    fetch.args(["--silent", "--verbose", "--proxytunnel", "--proxy", &gateway.address.to_string()]);
    fetch.args(["--proxy-user", "mover:wrong", "http://127.0.0.1:1/"]);
    let outcome = run(fetch, b"");
    // Exit code 56: failure to receive; curl uses it for a refused tunnel.
    assert_eq!(outcome.code, Some(56), "{outcome:?}");
    assert!(outcome.err.contains("407 Proxy Authentication Required: wrong user name or password"), "{outcome:?}");
}

#[test]
fn wget() {
    let Some(wget) = program("wget", "wget") else { return };
    let Some(origin) = TlsOrigin::start() else { return };
    let gateway = gateway();
    let mut fetch = command(wget);
    fetch.args(["--quiet", "--output-document=-", "--tries=1", "--proxy-user", NAME, "--proxy-password", PASSWORD]);
    fetch.env("https_proxy", format!("http://{}", gateway.address));
    fetch.arg("--ca-certificate").arg(origin.certificate()).arg(origin.url());
    assert_eq!(succeed(fetch, b"").out, DOCUMENT);
    went_through(&gateway, origin.address);
}

#[test]
fn python_urllib() {
    const SCRIPT: &str = "\
import ssl, sys, urllib.request
proxy, url, certificate = sys.argv[1:]
trust = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=certificate))
opener = urllib.request.build_opener(urllib.request.ProxyHandler({'https': proxy}), trust)
sys.stdout.write(opener.open(url).read().decode())
";
    let Some(python) = program("python3", "python3") else { return };
    let Some(origin) = TlsOrigin::start() else { return };
    let gateway = gateway();
    let mut fetch = command(python);
    fetch.args(["-c", SCRIPT, &url(&gateway), &origin.url()]).arg(origin.certificate());
    assert_eq!(succeed(fetch, b"").out, DOCUMENT);
    went_through(&gateway, origin.address);
}

#[test]
fn node_http_connect() {
    const SCRIPT: &str = "
const http = require('http');
const [host, port, target, credentials] = process.argv.slice(1);
const headers = { 'Proxy-Authorization': 'Basic ' + Buffer.from(credentials).toString('base64') };
const request = http.request({ host, port, method: 'CONNECT', path: target, headers });
request.on('connect', (response, socket, head) => {
  if (response.statusCode !== 200 || head.length !== 0) process.exit(3);
  let text = '';
  socket.on('data', (chunk) => { text += chunk; });
  socket.on('end', () => { process.stdout.write(text.split('\\r\\n\\r\\n')[1]); });
  socket.write('GET / HTTP/1.1\\r\\n\\r\\n');
});
request.end();
";
    let Some(node) = program("node", "nodejs") else { return };
    let gateway = gateway();
    let origin = Origin::http(PLAIN);
    let mut fetch = command(node);
    fetch.args(["-e", SCRIPT, &gateway.address.ip().to_string(), &gateway.address.port().to_string()]);
    fetch.args([&origin.address.to_string(), &format!("{NAME}:{PASSWORD}")]);
    assert_eq!(succeed(fetch, b"").out, PLAIN);
    went_through(&gateway, origin.address);
}
