// The parts of cuDNN that its graph library opens for itself. The stand-in has all it needs in graph.cpp.
extern "C" int fake_cudnn_part() { return 0; }
