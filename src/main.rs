//! The `dhtget` program: parse, run, exit code. Everything else is the library's.

use std::io::Write as _;
use std::process::ExitCode;

use dhtget::cli;
use dhtget::cli::plan::Env;
use dhtget::driver::conceal;
use dhtget::network::INVITE_PREFIX;

fn main() -> ExitCode {
    let start = dhtget::driver::clock::now();
    let args: Vec<_> = std::env::args_os().collect();
    if let Err(error) = conceal::words(&args, INVITE_PREFIX) {
        let _ = writeln!(
            std::io::stderr(),
            "warning: the invite stays visible in the list of processes: {error}"
        );
    }
    ExitCode::from(cli::main(args, &Env::of_process(), start))
}
