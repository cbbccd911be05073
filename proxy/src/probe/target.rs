use crate::config::{self, Arm, Config, Endpoint, Name, Upstream};

/// One endpoint that may answer for a model.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) arm: Arm,
    /// The name of the upstream.
    pub(super) name: Name,
    /// The upstream with this endpoint alone: no call may end up at another one.
    pub(super) upstream: Upstream,
    pub(super) endpoint: Endpoint,
}

/// Returns every endpoint that may answer for a model: those of all its arms, and where an arm
/// names no upstream, those of every listener's.
pub(super) fn targets(config: &Config, model: &config::Model) -> Vec<Target> {
    let mut targets = Vec::new();
    for arm in &model.arms {
        let mut names: Vec<&Name> = match &arm.upstream {
            Some(name) => vec![name],
            None => config.listeners.iter().map(|l| &l.upstream).collect(),
        };
        names.sort();
        names.dedup();
        for name in names {
            let Some(upstream) = config.upstreams.get(name) else {
                continue;
            };
            targets.extend(upstream.endpoints.iter().map(|endpoint| Target {
                arm: arm.clone(),
                name: name.clone(),
                upstream: Upstream {
                    endpoints: vec![endpoint.clone()],
                    ..upstream.clone()
                },
                endpoint: endpoint.clone(),
            }));
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_of_every_arm_is_one() {
        let of = |model: &str| {
            let text = format!(
                "listeners:
- {{ address: '127.0.0.1:1', upstream: a }}
- {{ address: '127.0.0.1:2', upstream: b }}
- {{ address: '127.0.0.1:3', upstream: a }}
upstreams:
  a: {{ protocol: oip-grpc, endpoints: ['http://h:1', 'http://h:2'] }}
  b: {{ protocol: oip-rest, endpoints: ['http://h:3'] }}
models: {{ m: {model} }}"
            );
            let config = Config::read(text).unwrap();
            let targets = targets(&config, &config.models["m"]);
            let shown = |target: &Target| {
                assert_eq!(target.upstream.endpoints.len(), 1);
                format!("{} {}", target.name.as_str(), target.endpoint)
            };
            targets.iter().map(shown).collect::<Vec<_>>()
        };
        assert_eq!(of("{}"), ["a http://h:1", "a http://h:2", "b http://h:3"]);
        assert_eq!(
            of("{ arms: { x: { upstream: b, model: y } } }"),
            ["b http://h:3"]
        );
    }
}
