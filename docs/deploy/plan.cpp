// Plan with an exported program in C++, by libtorch: plan FOLDER/program/plan.pt2
//
// A .pt2 holds compiled code, which loading it runs: load only programs that you, or somebody you trust, have made.

#include <chrono>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

// A program with the shapes that it was made for, which the exporter has put into the package.
class Program {
 public:
  explicit Program(const std::string& path) : loader_(path), metadata_(loader_.get_metadata()) {}

  std::vector<int64_t> shape(const std::string& input) const {  // "1x16x8x14"
    const auto found = metadata_.find(input);
    if (found == metadata_.end()) throw std::invalid_argument("the program has no input " + input);
    std::vector<int64_t> sizes;
    std::istringstream text(found->second);
    for (std::string size; std::getline(text, size, 'x');) sizes.push_back(std::stoll(size));
    return sizes;
  }

  // Returns actions (H, A), observations (H, O) and value (1) for an observation (O) and noise (D, K, H, T).
  std::vector<at::Tensor> plan(const at::Tensor& observation, const at::Tensor& noise) {
    if (observation.sizes() != at::IntArrayRef(shape("observation")) || noise.sizes() != at::IntArrayRef(shape("noise")))
      throw std::invalid_argument(
          "the program was made for an observation of " + metadata_["observation"] + " and noise of " +
          metadata_["noise"] + ": another is made by vgp program FOLDER pt2 --batch_size K --planning_horizon H");
    auto outputs = loader_.run({observation.contiguous(), noise.contiguous()});
    if (!outputs[0].isfinite().all().item<bool>()) throw std::runtime_error("the plan is not finite");
    return outputs;
  }

 private:
  torch::inductor::AOTIModelPackageLoader loader_;
  std::unordered_map<std::string, std::string> metadata_;
};

int main(int argc, char** argv) try {
  if (argc < 2) throw std::invalid_argument("usage: plan FOLDER/program/plan.pt2");
  at::set_num_threads(1);
  Program program(argv[1]);
  at::Tensor observation = at::zeros(program.shape("observation"));  // your robot's, in the environment's units
  for (int step = 0; step < 5; ++step) {
    const auto start = std::chrono::steady_clock::now();
    const auto outputs = program.plan(observation, at::randn(program.shape("noise")));
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    std::cout << "action " << outputs[0][0].t() << " value " << outputs[2].item<float>() << " in " << took.count()
              << " ms\n";
    observation = outputs[1][1].clone();  // in place of a robot that does as it was told
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
