//! nginx, module stream: a plain TCP proxy with a fixed upstream.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::instance::Contender;
use super::program::{cores, first_line, says, write};
use crate::machine;
use crate::process::{Process, folder, free_port};
use crate::socket::Proxy;

/// Starts `program`.
///
/// # Errors
/// nginx does not start, or lacks its stream module.
pub(super) fn start(program: &Path, origin: SocketAddr) -> io::Result<Contender> {
    let (folder, address) = (folder()?, free_port()?);
    let config = write(folder.path(), "nginx.conf", &config(program, folder.path(), address, origin)?)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(folder.path()).args(["-e", "stderr", "-c"]).arg(config);
    let mut process = Process::start("nginx", &mut command, Some(folder))?;
    process.accepts(address)?;
    let version = first_line(&says(program, "-v")?);
    Ok(Contender::started(process, "nginx", version, Proxy::Plain(address), origin))
}

/// Configuration with buffers of 1 MiB: the default of 16 KiB is slower still.
pub(super) fn config(program: &Path, folder: &Path, address: SocketAddr, origin: SocketAddr) -> io::Result<String> {
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    Ok(format!(
        "{module}{user}daemon off;
worker_processes {cores};
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {connections}; }}
stream {{
    proxy_buffer_size 1m;
    proxy_timeout 1h;
    server {{ listen {address} backlog=4096; proxy_pass {origin}; }}
}}
",
        module = module(&says(program, "-V")?),
        cores = cores(),
        connections = machine::descriptors().min(100_000) - 50,
        folder = folder.display()
    ))
}

/// Directive that loads the stream module if it is dynamic, according to `nginx -V`.
fn module(built: &str) -> String {
    if !built.contains("--with-stream=dynamic") {
        return String::new();
    }
    let path = built.split_whitespace().find_map(|word| word.strip_prefix("--modules-path="));
    format!("load_module {}/ngx_stream_module.so;\n", path.unwrap_or("modules"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_loaded_where_it_is_not_built_in() {
        assert_eq!(module("configure arguments: --with-stream --with-threads"), "");
        let line = module("--modules-path=/usr/lib/nginx/modules --with-stream=dynamic");
        assert_eq!(line, "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n");
    }
}
