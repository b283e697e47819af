//! NVIDIA's management library, if there is one: opened at run time, asked on the thread that
//! `devices.rs` keeps for it. Any call may block for as long as the driver likes.

use std::sync::mpsc::Receiver;

use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use tokio::sync::mpsc::Sender;

use super::{Figures, Reading};

/// Reads once, and then whenever somebody asks, until nobody can any more.
pub(super) fn read_when_asked(questions: &Receiver<()>, answers: &Sender<Figures>) {
    let nvml = match Nvml::init() {
        Ok(nvml) => nvml,
        Err(error) => {
            tracing::debug!(%error, "no NVML: what devices' memory holds is estimated from files");
            return;
        }
    };
    let mut complained = false;
    loop {
        match read(&nvml) {
            Ok(readings) => {
                if answers.blocking_send(Figures::of(&readings)).is_err() {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(%error, "NVML does not tell what the devices' memory holds");
                }
                if answers.blocking_send(Figures::default()).is_err() {
                    return;
                }
            }
        }
        if questions.recv().is_err() {
            return;
        }
    }
}

fn read(nvml: &Nvml) -> Result<Vec<Reading>, NvmlError> {
    let devices = (0..nvml.device_count()?).map(|index| {
        let device = nvml.device_by_index(index)?;
        let processes = device.running_compute_processes()?.into_iter().map(|process| {
            let bytes = match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            };
            (process.pid, bytes)
        });
        Ok(Reading { total: device.memory_info()?.total, processes: processes.collect() })
    });
    devices.collect()
}
