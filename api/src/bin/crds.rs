//! Writes the files of the folder `crds/`, or checks that they are up to date. Called by `make crds` and by CI.

use std::path::Path;
use std::process::ExitCode;

use kerbside_api::crd;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--out", dir] => crd::write(Path::new(dir)),
        ["--check", dir] => crd::check(Path::new(dir)),
        _ => {
            eprintln!("usage: crds --out DIR | crds --check DIR");
            return ExitCode::from(2);
        }
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    let mut line = Vec::new();
    while let Some(error) = cause {
        line.push(error.to_string());
        cause = error.source();
    }
    eprintln!("crds: {}", line.join(": "));
    ExitCode::FAILURE
}
