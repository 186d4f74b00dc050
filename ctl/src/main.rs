//! The program `scitq-ctl`.

fn main() -> std::process::ExitCode {
    // `up` starts this program a second time to be the parent of the tasks.
    if let Some(code) = scitq_worker::keeper::run_if_asked() {
        return code;
    }
    scitq_ctl::main()
}
