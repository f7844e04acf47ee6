// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
// Echo one topic with Fast DDS, the default middleware of ROS 2: `/in` comes back on `/out`.
// Arguments: domain, type name on the wire (std_msgs::msg::dds_::String_).
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <fastdds/dds/domain/DomainParticipant.hpp>
#include <fastdds/dds/domain/DomainParticipantFactory.hpp>
#include <fastdds/dds/publisher/DataWriter.hpp>
#include <fastdds/dds/publisher/Publisher.hpp>
#include <fastdds/dds/subscriber/DataReader.hpp>
#include <fastdds/dds/subscriber/SampleInfo.hpp>
#include <fastdds/dds/subscriber/Subscriber.hpp>
#include <fastdds/dds/topic/Topic.hpp>
#include <fastdds/dds/topic/TopicDataType.hpp>
#include <fastdds/dds/topic/TypeSupport.hpp>

using namespace eprosima::fastdds::dds;
using eprosima::fastrtps::rtps::InstanceHandle_t;
using eprosima::fastrtps::rtps::SerializedPayload_t;
using Bytes = std::vector<unsigned char>;

// CDR as it stands on the wire, so that the echo is exact.
class RawType : public TopicDataType {
public:
  explicit RawType(const char* name) {
    setName(name);
    m_typeSize = 100000;
  }
  bool serialize(void* data, SerializedPayload_t* payload) override {
    auto& bytes = *static_cast<Bytes*>(data);
    std::memcpy(payload->data, bytes.data(), bytes.size());
    payload->length = bytes.size();
    payload->encapsulation = CDR_LE;
    return true;
  }
  bool deserialize(SerializedPayload_t* payload, void* data) override {
    static_cast<Bytes*>(data)->assign(payload->data, payload->data + payload->length);
    return true;
  }
  std::function<uint32_t()> getSerializedSizeProvider(void* data) override {
    return [data] { return static_cast<uint32_t>(static_cast<Bytes*>(data)->size()); };
  }
  void* createData() override { return new Bytes; }
  void deleteData(void* data) override { delete static_cast<Bytes*>(data); }
  bool getKey(void*, InstanceHandle_t*, bool) override { return false; }
};

int main(int, char** argv) {
  auto* participant = DomainParticipantFactory::get_instance()->create_participant(
      std::atoi(argv[1]), PARTICIPANT_QOS_DEFAULT);
  TypeSupport type(new RawType(argv[2]));
  type.register_type(participant);
  auto* in = participant->create_topic("rt/in", argv[2], TOPIC_QOS_DEFAULT);
  auto* out = participant->create_topic("rt/out", argv[2], TOPIC_QOS_DEFAULT);
  DataReaderQos asks;
  asks.reliability().kind = RELIABLE_RELIABILITY_QOS;
  DataWriterQos offers;
  offers.publish_mode().kind = ASYNCHRONOUS_PUBLISH_MODE;
  auto* reader = participant->create_subscriber(SUBSCRIBER_QOS_DEFAULT)->create_datareader(in, asks);
  auto* writer = participant->create_publisher(PUBLISHER_QOS_DEFAULT)->create_datawriter(out, offers);
  for (;;) {
    Bytes bytes;
    SampleInfo info;
    if (reader->take_next_sample(&bytes, &info) == ReturnCode_t::RETCODE_OK && info.valid_data) {
      writer->write(&bytes);
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}
