//! Peers of a migration, each configured as by its operator: rsyncd, stunnel on both sides, and
//! HAProxy as the router of the target cluster, routing TLS by SNI without terminating it.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::gateway::{PASSWORD, USER};
use super::process::Process;
use crate::failure::{Context, Failure, Result};
use crate::tools;

/// User of the rsync modules.
pub(super) const RSYNC_USER: &str = "crane";
/// Password of the user, seen only by the two rsyncs.
pub(super) const RSYNC_PASSWORD: &str = "rsync-inside-tls";
/// Host of the target's route: SNI, subject of the certificate, and name verified by the client.
const ROUTE_HOST: &str = "dvm-rsync.apps.target.example";

/// Maximum number of tries if another process takes the free port first.
const PORT_ATTEMPTS: u32 = 5;

const CHILDREN_DEADLINE: Duration = Duration::from_secs(10);

/// Far side: the peers behind the gateway.
#[derive(Debug)]
pub(super) struct Peers {
    dir: PathBuf,
    stunnel: PathBuf,
    router_port: u16,
    router: Process,
    stunnel_server: Process,
    rsyncd: Rsyncd,
}

/// rsyncd has a process for each connection, which exits after noticing the closed peer.
#[derive(Debug)]
struct Rsyncd(Process);

impl Drop for Rsyncd {
    fn drop(&mut self) {
        self.0.wait_for_children(CHILDREN_DEADLINE);
    }
}

impl Peers {
    /// Makes the certificate and starts rsyncd, the stunnel in front of it, and the router.
    pub(super) fn start(dir: &Path, volumes: usize) -> Result<Self> {
        let stunnel = program(&tools::STUNNEL)?;
        make_certificate(dir)?;
        let (rsyncd, rsyncd_port) = start_rsyncd(dir, volumes)?;
        let (stunnel_server, server_port) = start_stunnel(&stunnel, dir, "stunnel-server", |port| {
            let dir = dir.display();
            format!(
                "[rsync]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{rsyncd_port}\n\
                 cert = {dir}/cert.pem\nkey = {dir}/key.pem\nTIMEOUTclose = 0\n"
            )
        })?;
        let (router, router_port) = start_router(dir, server_port)?;
        Ok(Self { dir: dir.to_owned(), stunnel, router_port, router, stunnel_server, rsyncd: Rsyncd(rsyncd) })
    }

    /// Port to permit in the gateway.
    pub(super) fn router_port(&self) -> u16 {
        self.router_port
    }

    /// Processes from the near end to the far one.
    pub(super) fn processes(&self) -> [&Process; 3] {
        [&self.router, &self.stunnel_server, &self.rsyncd.0]
    }

    /// Starts the stunnel beside one rsync, with the settings derived from `stunnel_tcp_proxy`. It
    /// verifies the target's certificate, so no hop on the path can have terminated the TLS.
    pub(super) fn start_client(&self, number: usize, gateway: SocketAddr) -> Result<(Process, u16)> {
        start_stunnel(&self.stunnel, &self.dir, &format!("stunnel-client-{number}"), |port| {
            let (dir, router) = (self.dir.display(), self.router_port);
            format!(
                "[rsync]\nclient = yes\naccept = 127.0.0.1:{port}\nconnect = {gateway}\n\
                 protocol = connect\nprotocolHost = 127.0.0.1:{router}\n\
                 protocolUsername = {USER}\nprotocolPassword = {PASSWORD}\n\
                 sni = {ROUTE_HOST}\nverifyChain = yes\ncheckHost = {ROUTE_HOST}\nCAfile = {dir}/cert.pem\n\
                 TIMEOUTclose = 0\n"
            )
        })
    }
}

fn program(tool: &tools::Tool) -> Result<PathBuf> {
    tool.find()
        .ok_or_else(|| Failure::new(format!("{} is not installed: apt-get install {}", tool.name(), tool.package)))
}

/// Makes a key and a self-signed certificate, in place of one by the transfer's own authority.
fn make_certificate(dir: &Path) -> Result<()> {
    let mut command = Command::new(program(&tools::OPENSSL)?);
    command
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", &format!("/CN={ROUTE_HOST}"), "-addext", &format!("subjectAltName=DNS:{ROUTE_HOST}")])
        .arg("-keyout")
        .arg(dir.join("key.pem"))
        .arg("-out")
        .arg(dir.join("cert.pem"));
    let output = command.output().context("starting openssl")?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("openssl req failed:\n{}", String::from_utf8_lossy(&output.stderr))))
}

fn start_rsyncd(dir: &Path, volumes: usize) -> Result<(Process, u16)> {
    let secrets = dir.join("rsyncd.secrets");
    fs::write(&secrets, format!("{RSYNC_USER}:{RSYNC_PASSWORD}\n")).context(secrets.display())?;
    fs::set_permissions(&secrets, Permissions::from_mode(0o600)).context(secrets.display())?;
    let rsync = program(&tools::RSYNC)?;
    start_listener("rsyncd", dir, |port| {
        let config = dir.join("rsyncd.conf");
        fs::write(&config, rsyncd_config(dir, port, volumes)).context(config.display())?;
        let mut command = Command::new(&rsync);
        command.args(["--daemon", "--no-detach"]).arg("--config").arg(config);
        Ok(command)
    })
}

/// Configuration without chroot, which needs root. "munge symlinks" is off, so that links are kept
/// unchanged (rsyncd.conf(5)).
fn rsyncd_config(dir: &Path, port: u16, volumes: usize) -> String {
    let mut config = format!(
        "address = 127.0.0.1\nport = {port}\nuse chroot = no\nmunge symlinks = no\nnumeric ids = yes\n\
         read only = no\nreverse lookup = no\nauth users = {RSYNC_USER}\n\
         secrets file = {0}/rsyncd.secrets\nlog file = {0}/rsyncd-transfers.log\n",
        dir.display()
    );
    if tools::is_root() {
        // Otherwise rsyncd drops to nobody and cannot restore owners.
        config.push_str("uid = root\ngid = root\n");
    }
    for number in 0..volumes {
        config.push_str(&format!("[vol{number}]\npath = {}/target/vol{number}\n", dir.display()));
    }
    config
}

fn start_stunnel(program: &Path, dir: &Path, name: &str, service: impl Fn(u16) -> String) -> Result<(Process, u16)> {
    start_listener(name, dir, |port| {
        let config = dir.join(format!("{name}.conf"));
        // Level notice: at debug stunnel writes the Basic token into its log.
        let text = format!("foreground = yes\npid =\nsyslog = no\ndebug = notice\n{}", service(port));
        fs::write(&config, text).context(config.display())?;
        fs::set_permissions(&config, Permissions::from_mode(0o600)).context(config.display())?;
        let mut command = Command::new(program);
        command.arg(config);
        Ok(command)
    })
}

/// Starts a router like OpenShift's: TCP mode, five seconds for the ClientHello, backend by SNI,
/// other hosts rejected.
fn start_router(dir: &Path, server_port: u16) -> Result<(Process, u16)> {
    let haproxy = program(&tools::HAPROXY)?;
    start_listener("haproxy", dir, |port| {
        let config = dir.join("haproxy.cfg");
        let text = format!(
            "global\n  maxconn 256\n  log stdout format raw local0 notice\n\
             defaults\n  mode tcp\n  log global\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  timeout tunnel 1h\n\
             frontend sni\n  bind 127.0.0.1:{port}\n  tcp-request inspect-delay 5s\n\
             \x20 tcp-request content accept if {{ req.ssl_hello_type 1 }}\n\
             \x20 use_backend route if {{ req.ssl_sni -i {ROUTE_HOST} }}\n\
             \x20 default_backend no_such_route\n\
             backend route\n  server stunnel 127.0.0.1:{server_port}\n\
             backend no_such_route\n  tcp-request content reject\n"
        );
        fs::write(&config, text).context(config.display())?;
        let mut command = Command::new(&haproxy);
        command.arg("-db").arg("-f").arg(config);
        Ok(command)
    })
}

/// Starts `command` for a free port and waits until it listens there.
///
/// # Errors
/// The command does not listen; the error has the end of its log.
pub fn start_listener(name: &str, dir: &Path, command: impl Fn(u16) -> Result<Command>) -> Result<(Process, u16)> {
    let mut attempt = 1;
    loop {
        let port = free_port()?;
        let mut process = Process::spawn(name, &mut command(port)?, dir)?;
        match process.ready(|process| process.listens_on(port).then_some(())) {
            Ok(()) => return Ok((process, port)),
            Err(_) if attempt < PORT_ATTEMPTS && process.output().contains("ddress already in use") => attempt += 1,
            Err(failure) => return Err(failure),
        }
    }
}

/// Port free a moment ago.
fn free_port() -> Result<u16> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    port.map(|address| address.port()).context("a free port")
}
