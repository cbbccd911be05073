use std::time::Duration;

/// What has been learned for second tries, for the admin page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// After what time a copy of a request is sent; `None` where none is, or too little is known.
    pub hedge_after: Option<Duration>,
}
