//! The `dhtget` program: parse, run, exit code. Everything else is the library's.

use std::process::ExitCode;

use dhtget::cli;
use dhtget::cli::plan::Env;

fn main() -> ExitCode {
    let start = dhtget::driver::clock::now();
    ExitCode::from(cli::main(std::env::args_os().collect(), &Env::of_process(), start))
}
