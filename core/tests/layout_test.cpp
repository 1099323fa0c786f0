#include "support.hpp"

using namespace psyne;
using namespace psyne::test;

TESTS(layout_test) {
    return check::run({
        {"states and counts share a word",
         [] {
             const uint64_t w = stated((1ull << 56) - 1, MemberState::swept);
             CHECK_EQ(count_in(w), (1ull << 56) - 1);
             CHECK_EQ(state_in<MemberState>(w), MemberState::swept);
             CHECK_EQ(state_in<LaneState>(0), LaneState::free);
             CHECK_EQ(state_in<MemberState>(0), MemberState::free);
         }},
        {"the tables of a channel file lie one behind the other",
         [] {
             CHECK(sizeof(ChannelHeader) <= kMembersOffset);
             CHECK_EQ(kStagesOffset - kMembersOffset, kMaxMembers * sizeof(MemberRecord));
             CHECK_EQ(kLanesOffset - kStagesOffset, kMaxStages * sizeof(StageRecord));
             CHECK_EQ(kSchemaOffset - kLanesOffset, kMaxLanes * sizeof(LaneRecord));
             for (const uint64_t offset : {kMembersOffset, kStagesOffset, kLanesOffset}) CHECK_EQ(offset % kLine, 0u);
         }},
        {"what different processes write lies 128 bytes apart",
         [] {
             CHECK_EQ(offsetof(MemberRecord, wakes) % kLine, 0u);
             CHECK_EQ(offsetof(StageRecord, idle) % kLine, 0u);
             CHECK_EQ(offsetof(LaneRecord, from) % kLine, 0u);
             CHECK(offsetof(ChannelHeader, senders_idle) - offsetof(ChannelHeader, lanes_epoch) >= kLine);
             CHECK(offsetof(ChannelHeader, late_wakes) - offsetof(ChannelHeader, senders_idle) >= kLine);
         }},
        {"a receiver's id is its bit in an idle mask, a lane's bit is its sender's",
         [] {
             CHECK(kMaxReceivers <= 64);
             CHECK(kMaxLanes <= 64);
             CHECK(kMaxMembers <= 0xffff);  // an owner fits into a word
         }},
        {"the pattern limits senders and members",
         [] {
             CHECK(one_sender(Pattern::spsc) && one_sender(Pattern::spmc));
             CHECK(!one_sender(Pattern::mpsc) && !one_sender(Pattern::mpmc));
             CHECK(one_member(Pattern::spsc) && one_member(Pattern::mpsc));
             CHECK(!one_member(Pattern::spmc) && !one_member(Pattern::mpmc));
         }},
        {"payloads are as far apart as their alignment asks for",
         [] {
             CHECK_EQ(payload_stride(16, 8, 0), 16u);
             CHECK_EQ(payload_stride(12, 8, 0), 16u);
             CHECK_EQ(payload_stride(3, 1, 0), 3u);
             CHECK_EQ(payload_stride(0, 1, 0), 1u);
             CHECK_EQ(payload_stride(65, 1, 0), 128u);   // from 64 bytes up: 64
             CHECK_EQ(payload_stride(16, 8, 256), 256u);
             CHECK_EQ(payload_stride(6220800, 1, 4096), 6221824u);
         }},
        {"the default capacity fits into 32 MiB, within 8 to 4096",
         [] {
             CHECK_EQ(default_capacity(64), 4096u);
             CHECK_EQ(default_capacity(1 << 20), 32u);
             CHECK_EQ(default_capacity(64ull << 20), 8u);
         }},
        {"rings of small messages have a power of two slots",
         [] {
             CHECK_EQ(rounded_capacity(100, 64), 128u);
             CHECK_EQ(rounded_capacity(1, 64), 1u);
             CHECK_EQ(rounded_capacity(100, 4096), 100u);
         }},
        {"a name that is too long is cut, never overrun",
         [] {
             SharedName name{};
             store_name(name, "camera");
             CHECK_EQ(load_name(name), std::string("camera"));
             store_name(name, std::string(200, 'x'));
             CHECK_EQ(load_name(name), std::string(kNameBytes - 1, 'x'));
             store_name(name, "");
             CHECK_EQ(load_name(name), std::string());
             for (auto& w : name.words) w.store(~0ull, relaxed);  // garbled by another process
             CHECK_EQ(load_name(name).size(), kNameBytes);
         }},
    });
}
