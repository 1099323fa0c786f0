// A look at a channel without joining it, as a plain dictionary.
#include "ends.hpp"

#include <psyne/inspect.hpp>

namespace psyne::python {

namespace {

nb::dict member_seen(const MemberSeen& m) {
    nb::dict d;
    d["number"] = m.join;
    d["pid"] = m.pid;
    d["program"] = shared_text(m.program);
    d["alive"] = m.alive;
    d["held"] = m.held;
    return d;
}

/// The oldest message that a stage has not passed: (position, sent, number of its holder or 0), or None.
nb::object oldest_seen(const StageSeen& s, const ChannelSeen& seen) {
    if (!s.oldest) return nb::none();
    uint64_t holder = 0;
    for (const MemberSeen& m : seen.members)
        if (m.id == s.oldest->owner) holder = m.join;
    return nb::make_tuple(s.oldest->position, s.oldest->stamp, holder);
}

nb::dict lane_seen(const LaneSeen& lane, const ChannelSeen& seen) {
    nb::dict d;
    nb::list stages;
    for (const StageSeen& s : lane.stages) stages.append(nb::make_tuple(s.passed, s.held, s.waiting, oldest_seen(s, seen)));
    d["number"] = lane.join;
    d["sender"] = nb::none();
    for (const MemberSeen& m : seen.members)
        if (m.id == lane.id && m.join == lane.join) d["sender"] = member_seen(m);
    d["state"] = lane.state == LaneState::open ? "open" : lane.state == LaneState::lost ? "lost" : "ended";
    d["position"] = lane.position;
    d["capacity"] = lane.capacity;
    d["used"] = lane.used;
    d["slabs"] = lane.slabs;
    d["reserved"] = lane.reserved;
    d["stages"] = stages;
    return d;
}

nb::dict stage_seen(const ChannelFile& file, uint32_t index, const ChannelSeen& seen) {
    const StageRecord& r = file.stage(index);
    nb::dict d;
    nb::list members, after;
    for (const MemberSeen& m : seen.members)
        if (m.id < kMaxReceivers && m.stage == index) members.append(member_seen(m));
    each_bit(r.after.load(relaxed), [&](uint32_t s) { after.append(shared_text(load_name(file.stage(s).name))); });
    d["name"] = shared_text(load_name(r.name));
    d["after"] = after;
    d["mutate"] = r.mutates.load(relaxed) != 0;
    d["members"] = members;
    return d;
}

nb::object inspect(nb::object place, const std::string& name) {
    check_name(name);
    auto found = find_channel(names_of(place), name);
    if (!found) return nb::none();
    const Inspection inspection(std::move(*found));
    const ChannelFile& file = inspection.file();
    const ChannelSeen seen = inspection.look();
    nb::dict d;
    nb::list lanes, stages;
    for (const LaneSeen& lane : seen.lanes) lanes.append(lane_seen(lane, seen));
    for (const uint32_t s : seen.stages) stages.append(stage_seen(file, s, seen));
    d["schema"] = shared_text(file.schema());
    d["pattern"] = static_cast<uint32_t>(file.shape.pattern);
    d["lanes"] = lanes;
    d["stages"] = stages;
    d["late_wakes"] = file.header().late_wakes.load(relaxed);
    d["redelivered"] = file.header().redelivered.load(relaxed);
    d["poisoned"] = file.header().poisoned.load(relaxed);
    d["dropped"] = file.header().dropped.load(relaxed);
    return d;
}

}  // namespace

void bind_inspect(nb::module_& m) {
    m.def("inspect", inspect, nb::arg("place"), nb::arg("name"),
          "Members, lanes and stages of an open channel, or None. Joins nothing.",
          nb::sig("def inspect(place: str | int, name: str) -> dict[str, typing.Any] | None"));
}

}  // namespace psyne::python
