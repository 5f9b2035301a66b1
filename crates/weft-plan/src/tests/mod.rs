//! The tests: what the plan is for given records, and what holds for all records.

mod cluster;
mod diff;
mod ipam;
mod plan;
mod planner;
