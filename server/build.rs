//! Builds the server anew when a migration comes: they are embedded in the program.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
