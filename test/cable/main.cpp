// Two hosts and a cable, for tests, as namespaces of this machine: what one sends arrives at the other some time later,
// or is lost. They are gone when this process ends. (tc's netem would delay and lose as well; not every kernel has it.)
//
//   cable <delay in ms> <loss in percent>
//
// A line for each host says where its network and its name are, for nsenter: 10.0.0.1 is the first, 10.0.0.2 the other.
// SIGUSR1 cuts the cable.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kPacketBytes = 2048;     // an interface has packets of 1500
constexpr size_t kWaitingPackets = 4096;  // as in a router, what is more is lost

int require(int result, const char* what) {
  if (result >= 0) return result;
  std::perror(what);
  std::exit(1);
}

void setUp(const char* interface, const char* address) {
  const int control = require(socket(AF_INET, SOCK_DGRAM, 0), "socket");
  ifreq request = {};
  std::strcpy(request.ifr_name, interface);
  const auto set = [&](unsigned long what, const char* value) {
    auto* const in = reinterpret_cast<sockaddr_in*>(&request.ifr_addr);
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = inet_addr(value);
    require(ioctl(control, what, &request), interface);
  };
  if (address) {
    set(SIOCSIFADDR, address);
    set(SIOCSIFNETMASK, "255.255.255.0");
  }
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  require(ioctl(control, SIOCSIFFLAGS, &request), interface);
  close(control);
}

// A host of its own, which this process then is in; gives its end of the cable, which works from anywhere.
int makeHost(int number) {
  require(unshare(CLONE_NEWNET | CLONE_NEWUTS), "unshare");
  const std::string name = "host" + std::to_string(number), address = "10.0.0." + std::to_string(number);
  require(sethostname(name.data(), name.size()), "sethostname");
  const int end = require(open("/dev/net/tun", O_RDWR | O_NONBLOCK), "/dev/net/tun");
  ifreq request = {};
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  std::strcpy(request.ifr_name, "cable");
  require(ioctl(end, TUNSETIFF, &request), "/dev/net/tun");
  setUp("lo", nullptr);
  setUp("cable", address.c_str());
  std::string line;
  for (const char* space : {"net", "uts"}) {
    const int file = require(open((std::string("/proc/self/ns/") + space).c_str(), O_RDONLY), space);
    line += std::string(" --") + space + "=/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file);
  }
  std::puts(line.c_str() + 1);
  return end;
}

struct Packet {
  Clock::time_point due;
  std::vector<char> bytes;
};

volatile std::sig_atomic_t isCut = 0;

}  // namespace

int main(int count, char** words) {
  if (count != 3) return std::fputs("cable <delay in ms> <loss in percent>\n", stderr), 2;
  const auto delay =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double, std::milli>(std::atof(words[1])));
  std::mt19937_64 random(1);
  std::bernoulli_distribution isLost(std::atof(words[2]) / 100);
  std::signal(SIGUSR1, [](int) { isCut = 1; });
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  const int ends[2] = {makeHost(1), makeHost(2)};
  std::fflush(stdout);
  std::deque<Packet> sent[2];  // by each end
  for (;;) {
    int wait = -1;
    for (int side = 0; side < 2; ++side) {
      auto& packets = sent[side];
      const auto now = Clock::now();
      for (; !packets.empty() && packets.front().due <= now; packets.pop_front()) {
        const auto& bytes = packets.front().bytes;
        if (write(ends[1 - side], bytes.data(), bytes.size()) < 0) continue;  // it is lost
      }
      if (packets.empty()) continue;
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(packets.front().due - now);
      wait = wait < 0 ? int(left.count()) + 1 : std::min(wait, int(left.count()) + 1);
    }
    pollfd files[2] = {{ends[0], POLLIN, 0}, {ends[1], POLLIN, 0}};
    poll(files, 2, wait);
    for (int side = 0; side < 2; ++side) {
      char bytes[kPacketBytes];
      for (ssize_t length; (length = read(ends[side], bytes, sizeof bytes)) > 0;) {
        if (!isCut && !isLost(random) && sent[side].size() < kWaitingPackets)
          sent[side].push_back({Clock::now() + delay, {bytes, bytes + length}});
      }
    }
  }
}
