//! Explain: the answer that CreateVolume would give now, with nothing written.

use api::Reason;
use api::csi::CapacityRange;
use api::csi::ringpv::explain_response::Answer;
use api::csi::ringpv::{ExplainRequest, ExplainResponse, NoFit, Refusals, RefusedDrive};
use api::status::status;
use tonic::Status;

use super::Service;
use crate::asked::size;
use crate::placement::request::{Class, Places, Request};
use crate::placement::{place, refusals};

/// Refused drives that are named one by one.
const REFUSED_MAX: usize = 100;

impl Service {
    pub(super) fn what_if(&self, request: ExplainRequest) -> Result<ExplainResponse, Status> {
        let class = Class::parse(&request.parameters);
        let class = class.map_err(|error| status(Reason::InvalidParameter, &error.to_string()))?;
        let range = CapacityRange {
            required_bytes: size::wire(request.required_bytes),
            limit_bytes: 0,
        };
        let bytes = size::Range::parse(Some(&range)).and_then(size::Range::choose)?;
        self.must_lead()?;
        let question = Request {
            name: String::new(),
            bytes,
            class,
            places: Places::nodes(request.nodes.iter().map(String::as_str)),
            now: self.leader.now(),
        };
        let inventory = self.leader.inventory();
        let policy = self.leader.policy;
        let answer = match place(&question, &inventory, policy) {
            Ok(placement) => {
                let json = serde_json::to_string(&placement);
                let json = json.map_err(|error| status(Reason::Internal, &error.to_string()))?;
                Answer::PlacementJson(json)
            }
            Err(no_fit) => Answer::NoFit(NoFit {
                message: no_fit.to_string(),
                considered: no_fit.considered,
                refused: no_fit
                    .refused
                    .iter()
                    .map(|refusals| Refusals {
                        reason: refusals.reason.to_string(),
                        count: refusals.count,
                    })
                    .collect(),
            }),
        };
        let refused = refusals(&question, &inventory, policy, REFUSED_MAX).into_iter();
        Ok(ExplainResponse {
            answer: Some(answer),
            refused: refused
                .map(|refused| RefusedDrive {
                    drive: refused.drive,
                    node: refused.node,
                    reason: refused.reason.to_string(),
                })
                .collect(),
        })
    }
}
