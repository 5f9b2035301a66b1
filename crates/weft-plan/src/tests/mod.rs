//! The tests: what the plan is for given records, and what holds for all records.

mod absence;
mod cluster;
mod diff;
mod direct;
mod displaced;
mod explain;
mod gateway;
mod groups;
mod ipam;
mod leaks;
mod names;
mod plan;
mod planner;
