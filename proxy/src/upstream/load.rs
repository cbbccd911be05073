use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counts the calls under way on a connection and on its endpoint.
#[derive(Debug)]
pub(crate) struct Load {
    calls: AtomicUsize,
    of: Option<Arc<Load>>,
}

/// One call under way; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Underway(Arc<Load>);

impl Load {
    /// Makes the count of an endpoint.
    pub(crate) fn endpoint() -> Arc<Self> {
        Arc::new(Self {
            calls: AtomicUsize::new(0),
            of: None,
        })
    }

    /// Makes the count of one of its connections.
    pub(crate) fn connection(endpoint: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self {
            calls: AtomicUsize::new(0),
            of: Some(endpoint.clone()),
        })
    }

    /// Returns the calls under way.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Begins a call.
    pub(crate) fn begin(self: &Arc<Self>) -> Underway {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(endpoint) = &self.of {
            endpoint.calls.fetch_add(1, Ordering::Relaxed);
        }
        Underway(self.clone())
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
        if let Some(endpoint) = &self.0.of {
            endpoint.calls.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_on_its_connection_and_on_its_endpoint_until_it_is_dropped() {
        let endpoint = Load::endpoint();
        let (one, two) = (Load::connection(&endpoint), Load::connection(&endpoint));
        let calls = [one.begin(), one.begin(), two.begin()];
        assert_eq!((one.calls(), two.calls(), endpoint.calls()), (2, 1, 3));
        drop(calls);
        assert_eq!((one.calls(), two.calls(), endpoint.calls()), (0, 0, 0));
    }
}
