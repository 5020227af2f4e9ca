//! With feature `libfuzzer` the fuzzer of the target that `MTLS_FUZZ_TARGET` names. Without it a program that runs
//! inputs through a target one by one, to reproduce what a fuzzer found: `fuzz TARGET FILE...`.

#![cfg_attr(feature = "libfuzzer", no_main)]

#[cfg(feature = "libfuzzer")]
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    static TARGET: std::sync::LazyLock<&mtls_appliance_fuzz::Target> = std::sync::LazyLock::new(|| {
        let name = std::env::var(mtls_appliance_fuzz::TARGET_VARIABLE).unwrap_or_default();
        mtls_appliance_fuzz::find(&name).unwrap_or_else(|| {
            eprintln!("{}={name}: no such target", mtls_appliance_fuzz::TARGET_VARIABLE);
            std::process::exit(2)
        })
    });
    (TARGET.run)(input);
});

#[cfg(not(feature = "libfuzzer"))]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;

    use mtls_appliance_fuzz::{TARGETS, find};

    let mut arguments = std::env::args().skip(1);
    let Some(target) = arguments.next().and_then(|name| find(&name)) else {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("usage: fuzz TARGET FILE...\ntargets: {}", names.join(", "));
        return ExitCode::from(2);
    };
    for file in arguments {
        match std::fs::read(&file) {
            Ok(input) => (target.run)(&input),
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::from(2);
            }
        }
        println!("{file}: holds");
    }
    ExitCode::SUCCESS
}
