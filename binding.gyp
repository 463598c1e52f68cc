{
  # Lists no sources: CMakeLists.txt does. For tools that look for this file.
  "targets": [
    {
      "target_name": "ddpm_native",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["build/Release/ddpm_native.node"],
          "action": ["npx", "cmake-js", "build"]
        }
      ]
    }
  ]
}
