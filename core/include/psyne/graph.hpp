// The stages of a channel: those declared with it, and those added while it runs.
//
// An added stage is there while its bit is set in ChannelHeader.graph. Its word tells who may use its record:
//
//   FREE ──▶ PROPOSED(by) ──▶ bit set ──▶ OPEN(joins) ──▶ DRAINING ──▶ bit cleared ──▶ the next generation
//            written, checked             holds senders   nobody takes   no member is left
//                                         back            any more
//
// Each arrow is a compare-and-swap, so whoever is killed between two leaves a state that others can go on from: who
// sees the bit of a proposed stage opens it, and who buries its proposer frees one without a bit.
#pragma once

#include <bit>

#include <psyne/channel_file.hpp>
#include <psyne/slab.hpp>

namespace psyne {

inline constexpr uint64_t kRefused = 1ull << 63;  // in LaneRecord.admitted: no space for the stage's row

/// Calls `f` with the number of each bit.
template <class F>
void each_bit(uint32_t mask, F&& f) {
    for (; mask != 0; mask &= mask - 1) f(static_cast<uint32_t>(std::countr_zero(mask)));
}

/// Has a stage let go a message of a lane? Asked by the sender and by the stages after it.
struct Gate {
    const Atomic64* row = nullptr;        // its ack words in the lane
    const StageRecord* added = nullptr;   // of a stage added later
    uint64_t from = 0, generation = 0;    // of it: its first position in the lane, and as which it was admitted

    uint64_t word(uint64_t slot) const noexcept { return row[slot].load(acquire); }  // END

    /// Final once true.
    bool let_go(const Slab& slab, uint64_t slot, uint64_t lap, Next next) const noexcept {
        if (!added) [[likely]]
            return psyne::let_go(word(slot), lap, next);
        if (lap == 0 || slab.position(slot, lap) < from) return true;
        const uint64_t stage = added->word.load(acquire);  // before the word: who left has taken all that it took
        if (generation_in(stage) != generation) return true;
        const uint64_t w = word(slot);
        const bool passed = psyne::let_go(w, lap, next);
        if (passed || state_in<StageState>(stage) == StageState::open) return passed;
        return lap_of(w) != lap || ack_of(w) == Ack::orphan;  // draining: only what is held counts
    }
    /// Of a message that was let go: shall nobody see it? Half changed by a stage that is over, nobody will mend it.
    bool dropped(uint64_t slot, uint64_t lap) const noexcept {
        const uint64_t w = word(slot);
        return lap_of(w) == lap && ((w & kDrop) != 0 || (ack_of(w) == Ack::orphan && (w & kDirty) != 0));
    }
};

class Graph {
public:
    explicit Graph(const ChannelFile& c) : c_(c) {}

    uint32_t declared() const noexcept { return static_cast<uint32_t>((1ull << c_.shape.stage_count) - 1); }
    uint32_t added() const noexcept { return added_in(c_.header().graph.load(acquire)) & ~declared(); }
    uint32_t all() const noexcept { return declared() | added(); }
    bool is_added(uint32_t s) const noexcept { return s >= c_.shape.stage_count && s < kMaxStages; }

    /// The word of a stage that has its bit; one that is still proposed is opened.
    uint64_t opened(uint32_t s) const noexcept {
        Atomic64& word = c_.stage(s).word;
        uint64_t w = word.load(seq_cst);  // before the bit: one of the generation before was cleared by then
        while (state_in<StageState>(w) == StageState::proposed && (added() >> s & 1))
            if (word.compare_exchange_strong(w, stage_word(generation_in(w), 1, StageState::open), seq_cst)) return word.load(seq_cst);
        return w;
    }

    /// The stages that `s` waits for. Who writes waits for all before it, and so does an added stage: when one between
    /// is closed, those before that one still count.
    uint32_t waits_for(uint32_t s) const noexcept {
        const StageRecord& r = c_.stage(s);
        return (r.mutates.load(relaxed) != 0 || is_added(s) ? r.ancestors : r.after).load(relaxed);
    }
    /// The stages that wait for `s`.
    uint32_t behind(uint32_t s) const noexcept {
        uint32_t mask = 0;
        each_bit(all(), [&](uint32_t other) { mask |= (waits_for(other) >> s & 1) << other; });
        return mask;
    }
    uint32_t first() const noexcept {
        uint32_t mask = 0;
        each_bit(all(), [&](uint32_t s) { mask |= (c_.stage(s).after.load(relaxed) == 0 ? 1u : 0u) << s; });
        return mask;
    }
    uint32_t mutating() const noexcept {
        uint32_t mask = 0;
        each_bit(all(), [&](uint32_t s) { mask |= (c_.stage(s).mutates.load(relaxed) != 0 ? 1u : 0u) << s; });
        return mask;
    }

    /// What a stage means in a lane; without a row when it has no say there.
    Gate gate(uint32_t s, const LaneRecord& lane, const Slab& slab) const noexcept {
        if (!is_added(s)) return {slab.row(s)};
        const uint64_t admitted = lane.admitted[s].load(acquire);  // ADMIT
        if (admitted == 0 || (admitted & kRefused) != 0) return {};
        const uint64_t from = lane.from[s].load(acquire);
        if (from >= slab.end()) return {};  // its row has no pages there
        return {slab.row(s), &c_.stage(s), from, admitted};
    }

    /// The last active member of an added stage leaves, or was the one that is buried: from now on it holds up nobody.
    bool close_if_deserted(uint32_t s, uint64_t without = kMaxMembers) const noexcept {
        if (!is_added(s)) return false;
        Atomic64& word = c_.stage(s).word;
        for (uint64_t w = opened(s); state_in<StageState>(w) == StageState::open;) {  // before the scan: see count_in
            if (has_member(s, without, false)) return false;
            if (word.compare_exchange_strong(w, stage_word(generation_in(w), joins_in(w), StageState::draining), seq_cst)) return true;
        }
        return false;
    }

    /// A registered member joins a stage of that generation; false when it was closed meanwhile.
    bool count_in(uint32_t s, uint64_t generation) const noexcept {
        Atomic64& word = c_.stage(s).word;
        uint64_t w = opened(s);
        while (state_in<StageState>(w) == StageState::open && generation_in(w) == generation)
            if (word.compare_exchange_weak(w, stage_word(generation, joins_in(w) + 1, StageState::open), seq_cst)) return true;
        return false;
    }

    /// Takes away the bits of stages that are over: closed, with no member left, and before no other.
    void clear() const noexcept {
        Atomic64& graph = c_.header().graph;
        for (uint64_t g = graph.load(seq_cst);;) {
            uint32_t keep = 0, over = 0;
            each_bit(added_in(g) & ~declared(), [&](uint32_t s) { keep |= c_.stage(s).ancestors.load(relaxed); });
            each_bit(added_in(g) & ~declared() & ~keep, [&](uint32_t s) {
                if (state_in<StageState>(c_.stage(s).word.load(seq_cst)) == StageState::draining && !has_member(s, kMaxMembers, true))
                    over |= 1u << s;
            });
            if (over == 0) return;
            if (graph.compare_exchange_strong(g, next_version(g, added_in(g) & ~over), seq_cst)) g = graph.load(seq_cst);
        }
    }

    /// What a member that died may have left: a proposal, or a stage without members.
    void bury(uint64_t id) const noexcept {
        for (uint32_t s = c_.shape.stage_count; s < kMaxStages; ++s) {
            Atomic64& word = c_.stage(s).word;
            uint64_t w = word.load(seq_cst);
            if (state_in<StageState>(w) == StageState::proposed && joins_in(w) == id && !(added() >> s & 1))
                word.compare_exchange_strong(w, stage_word(generation_in(w), 0, StageState::free), seq_cst);
            if (c_.member(id).stage.load(relaxed) == s) close_if_deserted(s, id);
        }
    }

    /// A stage to be added.
    struct Wanted {
        std::string name;
        std::vector<std::string> after;
        bool at_the_end = false;  // after all others, in place of `after`
        bool mutates = false, redelivers = false;
    };
    struct Found {
        uint32_t stage = kMaxStages;
        uint64_t generation = 0;
        explicit operator bool() const noexcept { return stage < kMaxStages; }
    };

    /// The open stage of that name.
    Found find(const std::string& name) const {
        Found found;
        each_bit(all(), [&](uint32_t s) {
            const uint64_t w = is_added(s) ? opened(s) : 0;
            if (is_added(s) && state_in<StageState>(w) != StageState::open) return;
            if (load_name(c_.stage(s).name) != name) return;
            if (generation_in(c_.stage(s).word.load(seq_cst)) == generation_in(w)) found = {s, generation_in(w)};  // still the same
        });
        return found;
    }

    /// "'rectify', 'infer'"
    std::string names() const {
        std::string text;
        each_bit(all(), [&](uint32_t s) {
            if (is_added(s) && state_in<StageState>(opened(s)) != StageState::open) return;
            text += (text.empty() ? "'" : ", '") + load_name(c_.stage(s).name) + "'";
        });
        return text;
    }

    /// The stages of `wanted.after` as a mask. Throws Errc::invalid.
    uint32_t resolve(const Wanted& wanted) const {
        uint32_t mask = 0;
        for (const std::string& name : wanted.after) {
            const Found found = find(name);
            if (!found)
                fail(Errc::invalid, "stage '" + wanted.name + "' runs after '" + name + "', which is none of the stages of " +
                                        c_.address() + ": " + names());
            mask |= 1u << found.stage;
        }
        return mask;
    }

    /// Adds a stage whose first member is `id`, which is registered; without one when others came between: look again.
    /// Throws Errc::invalid, Errc::busy.
    Found add(const Wanted& wanted, uint64_t id) const {
        Atomic64& graph = c_.header().graph;
        clear();
        uint64_t g = graph.load(seq_cst);  // before the checks: a stage that is added meanwhile makes the CAS fail
        if (find(wanted.name)) return {};
        const uint32_t after = check(wanted);
        uint32_t s = c_.shape.stage_count;
        for (; s < kMaxStages; ++s)
            if (!(added_in(g) >> s & 1) && propose(s, id)) break;
        if (s == kMaxStages)
            fail(Errc::busy, c_.address() + " has " + std::to_string(kMaxStages) + " stages already; close some");
        StageRecord& r = c_.stage(s);
        uint32_t ancestors = after;
        each_bit(after, [&](uint32_t b) { ancestors |= c_.stage(b).ancestors.load(relaxed); });
        store_name(r.name, wanted.name);
        r.after.store(after, relaxed);
        r.ancestors.store(ancestors, relaxed);
        r.mutates.store(wanted.mutates, relaxed);
        r.redelivers.store(wanted.redelivers, relaxed);
        r.idle.store(0, relaxed);
        r.holder.store(0, relaxed);
        c_.member(id).stage.store(s, seq_cst);  // before the bit: who sees the stage sees that it has a member
        const uint64_t proposed = r.word.load(seq_cst);
        if (graph.compare_exchange_strong(g, next_version(g, added_in(g) | 1u << s), seq_cst)) return {s, generation_in(opened(s))};
        c_.member(id).stage.store(kTapStage, seq_cst);
        r.word.store(stage_word(generation_in(proposed), 0, StageState::free), seq_cst);
        return {};
    }

private:
    const ChannelFile& c_;

    static uint64_t next_version(uint64_t g, uint32_t added) noexcept { return graph_word((g >> 32) + 1, added); }

    /// `leaving`: those count too that only keep messages.
    bool has_member(uint32_t s, uint64_t without, bool leaving) const noexcept {
        for (uint64_t i = 0; i < kMaxReceivers; ++i) {
            const MemberRecord& m = c_.member(i);
            const auto state = state_in<MemberState>(m.state.load(seq_cst));
            if (i != without && m.stage.load(seq_cst) == s &&
                (state == MemberState::active || (leaving && state == MemberState::leaving)))
                return true;
        }
        return false;
    }

    /// Makes the record ours; nobody has one of a generation before.
    bool propose(uint32_t s, uint64_t id) const noexcept {
        Atomic64& word = c_.stage(s).word;
        uint64_t w = word.load(seq_cst);
        const auto state = state_in<StageState>(w);
        if ((state != StageState::free && state != StageState::draining) || has_member(s, kMaxMembers, true)) return false;
        return word.compare_exchange_strong(w, stage_word(generation_in(w) + 1, id, StageState::proposed), seq_cst);
    }

    /// The stages directly before a wanted one. Throws Errc::invalid where it cannot be.
    uint32_t check(const Wanted& wanted) const {
        uint32_t after = resolve(wanted), ancestors = 0, there = 0;  // those that messages still come to
        each_bit(all(), [&](uint32_t s) {
            if (!is_added(s) || state_in<StageState>(opened(s)) == StageState::open) there |= 1u << s;
        });
        if (wanted.at_the_end) {
            after = wanted.mutates ? there : there & (declared() | mutating());
            uint32_t indirect = 0;
            each_bit(after, [&](uint32_t s) { indirect |= c_.stage(s).ancestors.load(relaxed); });
            after &= ~indirect;
        }
        each_bit(after, [&](uint32_t s) { ancestors |= 1u << s | c_.stage(s).ancestors.load(relaxed); });
        each_bit(there & ~ancestors, [&](uint32_t s) {
            const StageRecord& other = c_.stage(s);
            if (!wanted.mutates && other.mutates.load(relaxed) == 0) return;
            const std::string name = load_name(other.name);
            fail(Errc::invalid, "stage '" + (wanted.mutates ? wanted.name : name) + "' mutates while '" +
                                    (wanted.mutates ? name : wanted.name) + "' may read the same message: say after=['" + name + "']");
        });
        return after;
    }
};

}  // namespace psyne
