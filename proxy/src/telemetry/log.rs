use tracing_subscriber::EnvFilter;

/// Writes events to standard error: as JSON where that is no terminal, so that collectors read
/// fields and not prose. `RUST_LOG` chooses; `info` is the default.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let result = if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    // A second start within one process (the demo, a test) keeps the first one's log.
    drop(result);
}
