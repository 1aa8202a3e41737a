//! The adapter as the link sees it: each thing that can happen goes to the part whose business it is.
//!
//! Implements the link's `Adapter`. It holds no state of its own; order within one car's session is the link's promise, kept by the
//! inbox of that car's actor.

use std::sync::Arc;

use bytes::Bytes;
use kerbside_core::clock::Boottime;
use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_link::fault::Fault;
use kerbside_link::proto::{OutputFile, OutputReceipt};
use kerbside_link::server::{
    Adapter, Arrival, Ended, EnrolmentRequest, FromCar, Greeting, Held, Issued, LogStream, OutputStream, Refusal,
    SignedReceipt, TunnelEnds,
};

use crate::enrolment::Enrolment;
use crate::fleet::Fleet;
use crate::logs::LogDesk;
use crate::output::Output;
use crate::receipts::Receipts;
use crate::tunnels::TunnelDesk;

/// The adapter's side of the link.
pub(crate) struct LinkService {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) logs: Arc<LogDesk>,
    pub(crate) tunnels: Arc<TunnelDesk>,
    pub(crate) output: Output,
    pub(crate) receipts: Receipts,
    pub(crate) enrolment: Enrolment,
}

impl Adapter for LinkService {
    async fn connected(&self, arrival: Arrival) -> Result<Greeting, Refusal> {
        self.fleet.connected(arrival).await
    }

    async fn message(&self, vehicle: &VehicleId, epoch: u64, message: FromCar, at: Boottime) {
        self.fleet.said(vehicle, epoch, message, at).await;
    }

    async fn disconnected(&self, vehicle: &VehicleId, epoch: u64, why: Ended) {
        self.fleet.disconnected(vehicle, epoch, &why).await;
    }

    async fn logs(&self, vehicle: &VehicleId, request_id: &str, log: LogStream) -> Result<(), Fault> {
        self.logs.answer(vehicle, request_id, log).await
    }

    async fn tunnel(
        &self,
        vehicle: &VehicleId,
        request_id: &str,
        answer: Result<TunnelEnds, Fault>,
    ) -> Result<(), Fault> {
        self.tunnels.answer(vehicle, request_id, answer)
    }

    async fn output_offset(&self, vehicle: &VehicleId, uid: &PodUid, file: &OutputFile) -> Result<u64, Fault> {
        self.output.offset(vehicle, uid, file).await
    }

    async fn put_output(
        &self,
        vehicle: &VehicleId,
        uid: &PodUid,
        file: &OutputFile,
        offset: u64,
        data: OutputStream,
    ) -> Result<OutputReceipt, Fault> {
        self.output.put(vehicle, uid, file, offset, data).await
    }

    async fn seal_output(
        &self,
        vehicle: &VehicleId,
        uid: &PodUid,
        files: Vec<OutputFile>,
        logs: Vec<OutputFile>,
    ) -> Result<(), Fault> {
        self.output.seal(vehicle, uid, &files, &logs).await?;
        self.fleet.sealed(vehicle, uid.clone()).await;
        Ok(())
    }

    async fn put_receipt(&self, vehicle: &VehicleId, receipt: SignedReceipt) -> Result<(), Fault> {
        self.receipts.put(vehicle, &receipt).await
    }

    async fn enrol(&self, request: EnrolmentRequest) -> Result<Issued, Fault> {
        self.enrolment.enrol(request).await
    }

    async fn renew(&self, vehicle: &VehicleId, csr_der: Bytes) -> Result<String, Fault> {
        self.enrolment.renew(vehicle, &csr_der).await
    }

    fn held(&self, what: &'static str, how: Held) {
        self.fleet.context().metrics.held_up(what, how.as_str());
    }

    fn is_revoked(&self, vehicle: &VehicleId) -> bool {
        let roster = &self.fleet.context().roster;
        // Before the Vehicles are listed nobody is turned away for good; `connected` waits and looks again.
        roster.is_synced() && roster.vehicle(vehicle.as_str()).is_none_or(|v| v.spec.revoked)
    }
}
