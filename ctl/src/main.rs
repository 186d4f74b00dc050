//! The program `scitq-ctl`.

fn main() -> std::process::ExitCode {
    scitq_ctl::main()
}
